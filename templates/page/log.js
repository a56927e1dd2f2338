// What a job wrote, from its end.
//
// So a log of any size opens at once; it goes on while the job does.
import {bytes, el, isFinal, replace} from "./dom.js"
import {ask, get, part} from "./api.js"

const WINDOW = 256 * 1024   // bytes that are shown at first, and fetched at once
const MOST = 4 * WINDOW     // characters that stay in the page

export async function showLog(view, job, name, signal) {
	const url = `jobs/${part(job.jobid)}/`
	let status = job
	while (!Object.keys(status.logs).length) {
		const over = isFinal(status.state)
		replace(view, el("p", {class: "quiet"}, over ? "It wrote nothing."
			: "It has written nothing yet."))
		if (over) return
		await new Promise(done => setTimeout(done, 500))
		status = await get(`${url}status`, {signal})
	}
	const found = Object.keys(status.logs), last = status.history.at(-1).jobndx
	const first = status.state === "failed" && status.logs[`stderr.${last}`] ? `stderr.${last}`
		: found.includes(`stdout.${last}`) ? `stdout.${last}` : found.at(-1)
	let shown = null    // the log that is shown: its name, what is shown of it, and what ends that
	let following = true
	const text = el("pre", {tabindex: 0, "aria-label": "Log", onscroll: () => {
		following = text.scrollTop + text.clientHeight >= text.scrollHeight - 8
		news.hidden = following
	}})
	const news = el("button", {hidden: true,
		onclick: () => { text.scrollTop = text.scrollHeight }}, "▼ to the end")
	const size = el("span", {class: "quiet"})
	const earlier = el("button", {hidden: true, onclick: () => before(shown)}, "earlier lines")
	const search = el("input", {type: "search", placeholder: "search",
		"aria-label": "Search in the log",
		onkeydown: event => { if (event.key === "Enter") find() }})
	const read = async (log, from, to) => to <= from ? ""
		: (await ask(`${url}logs/${part(log.name)}`, {
		signal: log.signal, headers: {Range: `bytes=${from}-${to - 1}`}})).text()
	const look = async (log, wait) => {
		const answer = await ask(`${url}logs/${part(log.name)}?offset=${log.end}&wait=${wait}`,
			{method: "HEAD", signal: log.signal})
		return [Number(answer.headers.get("X-Psik-Offset")), answer.headers.get("X-Psik-State")]
	}
	function add(log, more) {
		text.append(more)
		while (text.textContent.length > MOST && text.childNodes.length > 1) {
			log.begin += new Blob([text.firstChild.textContent]).size
			text.firstChild.remove()
		}
		earlier.hidden = log.begin === 0
		size.textContent = `${bytes(log.end)}${log.begin ? `, from ${bytes(log.begin)}` : ""}`
		if (following) text.scrollTop = text.scrollHeight
	}
	async function before(log) {
		const from = Math.max(0, log.begin - WINDOW), more = await read(log, from, log.begin)
		if (log !== shown) return
		text.prepend(more)
		log.begin = from
		earlier.hidden = from === 0
		text.scrollTop = 0
	}
	// The next place of what is searched, behind the one found before; after the last, the first.
	function find() {
		const range = document.createRange(), wanted = search.value.toLowerCase()
		if (!wanted) return
		text.normalize()
		const whole = text.textContent.toLowerCase(), selected = getSelection()
		const before = text.contains(selected.anchorNode) ? selected.focusOffset : 0
		const at = whole.includes(wanted, before) ? whole.indexOf(wanted, before)
			: whole.indexOf(wanted)
		if (at < 0) {
			size.textContent = `${search.value} is not in what is shown`
			return
		}
		range.setStart(text.firstChild, at)
		range.setEnd(text.firstChild, at + wanted.length)
		selected.removeAllRanges()
		selected.addRange(range)
		const top = each => each.getBoundingClientRect().top
		text.scrollTop += top(range) - top(text) - 40
		size.textContent = `${whole.split(wanted).length - 1} found; Enter: the next`
	}
	// Shows the end of a log, and what comes; after a break of the connection it goes on.
	async function open(wanted) {
		shown?.leave.abort()
		const leave = new AbortController(), log = {name: wanted, begin: 0, end: 0, leave,
			signal: leave.signal}
		shown = log
		replace(text)
		following = true
		for (let wait = 0, begun = false, state = ""; !leave.signal.aborted;) {
			try {
				const [end, now] = await look(log, wait)
				// Of what has come, at most the last of it: it may be much.
				const from = Math.max(log.end, end - WINDOW)
				if (!begun || from > log.end) {
					replace(text)
					log.begin = from
				}
				const more = await read(log, from, end)
				if (log !== shown) return
				log.end = end
				if (more || !begun) add(log, more)
				begun = true
				state = now
				wait = 30
			} catch (error) {
				if (leave.signal.aborted) return
				size.textContent = error.message
				await new Promise(done => setTimeout(done, 3000))
			}
			if (isFinal(state)) return
		}
	}
	signal.addEventListener("abort", () => shown?.leave.abort())
	const line = `psik.py logs ${isFinal(job.state) ? "" : "-f "}${job.jobid}`
	const logs = el("select", {"aria-label": "Which log", onfocus: () => list(),
		onchange: event => open(event.target.value)})
	async function list() {     // of an array, others have come meanwhile
		const names = Object.keys((await get(`${url}status`, {signal})).logs)
		if (names.length !== logs.options.length) options(names)
	}
	const options = names => replace(logs, names.map(each => el("option", {value: each,
		selected: each === shown.name}, each)))
	replace(view, el("div", {class: "bar"}, logs, search, el("label", {}, el("input", {
		type: "checkbox", onchange: event => text.classList.toggle("wrap", event.target.checked)}),
	" wrap"), earlier, size, news, el("span", {class: "last"}, el("code", {}, line), " ",
		el("button", {onclick: () => navigator.clipboard?.writeText(line)}, "copy"))), text)
	open(found.includes(name) ? name : first)
	options(found)
}
