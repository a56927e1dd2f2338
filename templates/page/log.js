// What a job wrote, from its end.
//
// So a log of any size opens at once; it goes on while the job does.
import {bytes, el, replace} from "./dom.js"
import {ask, get, part} from "./api.js"

const WINDOW = 256 * 1024   // bytes that are shown at first, and fetched at once
const MOST = 4 * WINDOW     // characters that stay in the page

export async function showLog(view, job, name, signal) {
	const url = `jobs/${part(job.jobid)}/logs`, names = async () => Object.keys(
		await get(url, {signal})).sort()
	let found = await names()
	while (!found.length) {
		const state = await get(`jobs/${part(job.jobid)}/state`, {signal})
		found = await names()
		const over = ["completed", "failed", "canceled"].includes(state)
		replace(view, found.length ? "" : el("p", {class: "quiet"}, over ? "It wrote nothing."
			: "It has written nothing yet."))
		if (over && !found.length) return
		if (!found.length) await new Promise(done => setTimeout(done, 500))
	}
	const last = job.history[job.history.length - 1].jobndx
	const first = job.state === "failed" && found.includes(`stderr.${last}`) ? `stderr.${last}`
		: found.includes(`stdout.${last}`) ? `stdout.${last}` : found[found.length - 1]
	let log = found.includes(name) ? name : first, begin = 0, end = 0, following = true
	const text = el("pre", {tabindex: 0, "aria-label": "Log", onscroll: () => {
		following = text.scrollTop + text.clientHeight >= text.scrollHeight - 8
		news.hidden = following
	}})
	const news = el("button", {hidden: true, onclick: () => { text.scrollTop = text.scrollHeight }},
		"▼ to the end")
	const size = el("span", {class: "quiet", role: "status"})
	const earlier = el("button", {hidden: true, onclick: () => before()}, "earlier lines")
	const search = el("input", {type: "search", placeholder: "search",
		"aria-label": "Search in the log",
		onchange: () => find()})
	const read = async (from, wait = 0) => {
		const answer = await ask(`${url}/${part(log)}?offset=${from}&wait=${wait}`, {signal})
		end = Number(answer.headers.get("X-Psik-Offset"))
		return [await answer.text(), answer.headers.get("X-Psik-State")]
	}
	const head = async (from, to) => (await ask(`${url}/${part(log)}`, {
		signal, headers: {Range: `bytes=${from}-${to - 1}`}})).text()

	function add(more) {
		text.append(more)
		while (text.textContent.length > MOST && text.childNodes.length > 1) {
			begin += new Blob([text.firstChild.textContent]).size
			text.firstChild.remove()
		}
		earlier.hidden = begin === 0
		size.textContent = `${bytes(end)}${begin ? `, from ${bytes(begin)}` : ""}`
		if (following) text.scrollTop = text.scrollHeight
	}
	async function before() {
		const from = Math.max(0, begin - WINDOW)
		text.prepend(await head(from, begin))
		begin = from
		earlier.hidden = begin === 0
		text.scrollTop = 0
	}
	function find() {
		const range = document.createRange(), wanted = search.value
		for (const node of text.childNodes) {
			const at = wanted ? node.textContent.indexOf(wanted) : -1
			if (at < 0) continue
			range.setStart(node, at)
			range.setEnd(node, at + wanted.length)
			getSelection().removeAllRanges()
			getSelection().addRange(range)
			const top = each => each.getBoundingClientRect().top
			text.scrollTop += top(range) - top(text) - 40
			return
		}
		if (wanted) size.textContent = `${wanted} is not in what is shown`
	}
	let turn = 0
	async function open(wanted) {
		const mine = ++turn
		log = wanted
		replace(text)
		following = true
		const length = Number((await ask(`${url}/${part(log)}`, {method: "HEAD", signal}))
			.headers.get("X-Psik-Offset") || 0)
		begin = Math.max(0, length - WINDOW)
		let [more, state] = await read(begin)
		add(more)
		while (mine === turn && !signal.aborted && ["active", "queued", "new"].includes(state)) {
			[more, state] = await read(end, 30)
			if (mine === turn && more) add(more)
		}
	}
	const line = `psik.py logs ${job.state === "active" ? "-f " : ""}${job.jobid}`
	const logs = el("select", {"aria-label": "Which log", onfocus: () => list(),
		onchange: event => open(event.target.value).catch(() => {})})
	async function list() {     // of an array, others have come meanwhile
		found = await names()
		replace(logs, found.map(each => el("option", {value: each, selected: each === log}, each)))
	}
	list()
	view.append(el("div", {class: "bar"}, logs,
		search, el("label", {}, el("input", {type: "checkbox",
			onchange: event => text.classList.toggle(
			"wrap", event.target.checked)}), " wrap"), earlier, size, news,
		el("span", {class: "last"}, el("code", {}, line), " ",
			el("button", {onclick: () => navigator.clipboard?.writeText(line)}, "copy"))), text)
	open(log).catch(error => { if (!signal.aborted) size.textContent = error.message })
}
