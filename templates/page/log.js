// What a job wrote, from its end.
//
// So a log of any size opens at once; it goes on while the job does.
import {bytes, el, isFinal, jobLink, options, replace} from "./dom.js"
import {ask, get, getRange, part, sleep} from "./api.js"

const WINDOW = 256 * 1024   // bytes that are shown at first, and fetched at once
const MOST = 4 * WINDOW     // bytes that stay in the page

const begins = byte => (byte & 0xc0) !== 0x80       // a character of UTF-8
// How many bytes at the begin, and at the end, are of a character that is not whole.
const cutBegin = found => Math.max(0, found.findIndex(begins))
function cutEnd(found) {
	const at = found.findLastIndex(begins), byte = found[at]
	const size = byte > 0xef ? 4 : byte > 0xdf ? 3 : byte > 0xbf ? 2 : 1
	return found.length - at < size ? found.length - at : 0
}

// One log as it is shown: text nodes, with their sizes in bytes, of what lies from begin to end.
class Shown {
	constructor(url, element) {
		Object.assign(this, {url, element, leave: new AbortController(), size: 0,
			following: true, turn: Promise.resolve()})
		this.restart(0)
	}
	restart(begin) {
		replace(this.element)
		Object.assign(this, {begin, end: begin})
	}
	// Learns how long the log is, once that has changed or the time is over; the job's state.
	async look(wait_s) {
		const answer = await ask(`${this.url}?offset=${this.size}&wait=${wait_s}`,
			{method: "HEAD", signal: this.leave.signal})
		this.size = Number(answer.headers.get("X-Psik-Offset"))
		return answer.headers.get("X-Psik-State")
	}
	// Shows what has come; of much only the last.  One call at a time.
	advance() {
		this.turn = this.turn.catch(() => {}).then(() => this.show(this.size))
		return this.turn
	}
	async show(end) {
		const from = Math.max(end < this.end ? 0 : this.end, end - WINDOW)
		let found = await getRange(this.url, from, end, this.leave.signal)
		if (!this.following) return     // one has begun to read meanwhile
		if (from !== this.end) {    // a gap, or a log that has begun anew
			const rest = cutBegin(found)
			this.restart(from + rest)
			found = found.subarray(rest)
		}
		found = found.subarray(0, found.length - cutEnd(found))     // that is asked for again
		this.end += found.length
		if (found.length) this.add("append", found)
	}
	add(where, found) {
		const text = new Text(new TextDecoder().decode(found))
		this.element[where](Object.assign(text, {size: found.length}))
	}
	trim() {
		const {childNodes} = this.element
		while (this.end - this.begin > MOST && childNodes.length > 1) {
			this.begin += childNodes[0].size
			childNodes[0].remove()
		}
	}
	async before() {
		const to = this.begin, from = Math.max(0, to - WINDOW)
		const found = await getRange(this.url, from, to, this.leave.signal)
		if (this.begin !== to) return
		const rest = from ? cutBegin(found) : 0
		this.add("prepend", found.subarray(rest))
		this.begin = from + rest
	}
	// The range of the next place of a text, in letters of any case, behind the last found; after
	// the last, the first.
	find(wanted) {
		const pattern = new RegExp(wanted.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"), "gi")
		const places = [...this.element.textContent.matchAll(pattern)].map(match => match.index)
		if (!places.length) return null
		this.found = places.find(place => place > this.found) ?? places[0]
		const range = document.createRange()
		let at = this.found
		for (const node of this.element.childNodes) {
			if (at >= 0 && at < node.length) {
				range.setStart(node, at)
				range.setEnd(node, Math.min(node.length, at + wanted.length))
			}
			at -= node.length
		}
		return [range, places.length]
	}
}

export async function showLog(view, job, name, signal) {
	const url = `jobs/${part(job.jobid)}/`, found = Object.keys(job.logs)
	if (!found.length) {
		view.append(el("p", {class: "quiet"}, isFinal(job.state) ? "It wrote nothing."
			: "No output yet."))
		return
	}
	const last = job.history.at(-1).jobndx
	const first = job.state === "failed" && job.logs[`stderr.${last}`] ? `stderr.${last}`
		: found.includes(`stdout.${last}`) ? `stdout.${last}` : found.at(-1)
	let shown = null, top = 0
	// While one reads what is above the end, nothing of it moves: what comes is only counted.
	const text = el("pre", {tabindex: 0, "aria-label": "Log", onscroll: () => {
		const atEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 8
		if (atEnd && !shown.following) toEnd()
		if (!atEnd && text.scrollTop < top) shown.following = false     // up, not by what has come
		top = text.scrollTop
		measure()
	}})
	const toEnd = async () => {
		shown.following = true
		await shown.advance()
		if (shown.following) {
			shown.trim()
			text.scrollTop = text.scrollHeight
		}
		measure()
	}
	const news = el("button", {hidden: true, onclick: toEnd})
	const size = el("span", {class: "quiet"}), note = el("span", {role: "status"})
	const earlier = el("button", {hidden: true, onclick: async () => {
		await shown.before()
		measure()
		text.scrollTop = 0
	}}, "earlier lines")
	const search = el("input", {type: "search", placeholder: "search",
		"aria-label": "Search in the log",
		onkeydown: event => { if (event.key === "Enter" && search.value) find() }})
	function measure() {
		const more = shown.size - shown.end
		earlier.hidden = shown.begin === 0
		news.hidden = shown.following
		news.textContent = `▼ to the end${more > 0 ? `, ${bytes(more)} more` : ""}`
		size.textContent = `${bytes(shown.end)}${shown.begin ? `, from ${bytes(shown.begin)}` : ""}`
	}
	function find() {
		const place = shown.find(search.value)
		note.textContent = place ? `${place[1]} found; Enter: the next`
			: `${search.value} is not in what is shown`
		if (!place) return
		getSelection().removeAllRanges()
		getSelection().addRange(place[0])
		const top = each => each.getBoundingClientRect().top
		text.scrollTop += top(place[0]) - top(text) - 40
	}
	// Shows the end of a log, and what comes; after a break of the connection it goes on.
	async function open(wanted) {
		shown?.leave.abort()
		const log = shown = new Shown(`${url}logs/${part(wanted)}`, text)
		const gone = log.leave.signal
		for (let wait_s = 0; !gone.aborted;) {
			try {
				const state = await log.look(wait_s)
				if (log.following) await toEnd()
				else measure()
				if (isFinal(state)) return
				wait_s = 30
			} catch (error) {
				if (gone.aborted) return
				size.textContent = error.message
				if (error.isRefusal) return
				wait_s = 0      // some of what it has learned of is not shown
				await sleep(3, gone)
			}
		}
	}
	const line = `psik.py logs ${isFinal(job.state) ? "" : "-f "}${job.jobid}`
	const logs = el("select", {"aria-label": "Which log", onfocus: () => list(),
		onchange: event => {
			history.replaceState(null, "", jobLink(job.jobid, "log", event.target.value))
			open(event.target.value)
		}})
	async function list() {     // of an array, others have come meanwhile
		const names = Object.keys((await get(`${url}status`, {signal})).logs)
		if (names.length !== logs.options.length) replace(logs, options(names, logs.value))
	}
	const begin = found.includes(name) ? name : first
	replace(logs, options(found, begin))
	signal.addEventListener("abort", () => shown?.leave.abort())
	view.append(el("div", {class: "bar"}, logs, search, el("label", {}, el("input", {
		type: "checkbox", onchange: event => text.classList.toggle("wrap", event.target.checked)}),
	" wrap"), earlier, size, note, news, el("span", {class: "last"}, el("code", {}, line), " ",
		navigator.clipboard ? el("button", {onclick: () => navigator.clipboard.writeText(line)},
			"copy") : "")), text)
	await open(begin)
}
