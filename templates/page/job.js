// One job: what it does and why, its logs, its files, what it was made from.
import {alertBox, bytes, confirming, el, heading, isFinal, jobLink, moment, options, plain, reason,
	replace, say, span, state, table, update} from "./dom.js"
import {ask, follow, get, part, post, send, sleep} from "./api.js"
import {showFiles} from "./files.js"
import {showLog} from "./log.js"
import {chart, strip} from "./picture.js"

// When each step waited and ran, as bars on one axis.
function timeline(job) {
	const steps = {}, now = Date.now() / 1000
	for (const row of job.history) (steps[row.jobndx] ??= {})[row.state] ??= row.time
	const rows = Object.entries(steps).filter(([step]) => step > 0).slice(-50).map(([step,
		times]) => {
		const how = Object.keys(times).find(isFinal) || Object.keys(times).at(-1)
		const end = isFinal(how) ? times[how] : now, began = times.active || end
		return {title: `step ${step}: ${how}`, bars: [[times.queued || began, began, "waited"],
			...(times.active ? [[began, end, how]] : [])]}
	})
	const times = rows.flatMap(row => row.bars.flatMap(bar => bar.slice(0, 2)))
	return rows.length ? chart(`${rows.length} steps: how long they waited and ran`, rows,
		Math.min(...times), Math.max(...times)) : ""
}

function facts(job) {
	const needs = job.spec.resources, pairs = {
		state: [state(job.state), job.reason ? ` ${job.reason}` : ""], step: job.jobndx || "",
		changed: moment(job.updated), backend: `${job.backend} (${job.spec.backend.type})`,
		ran: job.elapsed === null ? "" : `${span(job.elapsed)} of ${span(needs.duration * 60)}`,
		used: job.usage ? `CPU time ${span(job.usage.cpu_s)}, a process at most ${
			bytes(job.usage.memory_kib * 1024)}` : "",
		asked: Object.entries(needs).filter(([, value]) => value && value !== true).map(
			([name, value]) => `${name} ${value}`).join(", "),
		application: job.spec.application || "", directory: job.directory}
	return el("dl", {}, Object.entries(pairs).filter(([, value]) => value).map(
		([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))))
}

function why(job) {
	if (!job.why?.cause || job.state === "completed") return ""
	return el("div", {class: job.state === "failed" ? "box" : "box wait"}, el("strong", {},
		job.why.cause),
		(job.why.evidence || []).map(line => plain(line, {class: "wrap"})),
		job.why.way_out ? el("p", {}, "→ ", job.why.way_out) : "")
}

// Who else may look at the job, or change it.
async function showSharing(view, job, _, signal) {
	const url = `jobs/${part(job.jobid)}/access`
	const give = async shares => draw(await send("PUT", url, shares))
	const user = el("input", {id: "user", type: "text", required: true})
	const may = el("select", {id: "may"}, options([["GET", "look at it"],
		["POST", "change it too"]]))
	const list = el("div")
	const draw = access => replace(list, el("p", {}, `It belongs to ${access.owner}.`),
		table(["shared with", "who may", ""], Object.entries(access.shared).map(
			([name, operations]) => [name, operations.includes("POST") ? "change it" : "look at it",
				el("button", {onclick: () => give({[name]: []})}, "withdraw")])))
	view.append(list, el("form", {class: "bar", onsubmit: event => {
		event.preventDefault()
		give({[user.value]: [may.value]})
	}}, el("label", {for: "user"}, "let"), user, el("label", {for: "may"}, "to"), may,
	el("button", {}, "Share")), el("p", {class: "quiet"},
		"Sharing matters only at a server that has several users."))
	draw(await get(url, {signal}))
}

const TABS = ["log", "files", "spec", "scripts", "history", "tasks", "callbacks", "sharing"]
// Those that are drawn once, and those that change with the job.
const ONCE = {
	log: showLog,
	files: showFiles,
	spec: (view, job) => view.append(plain(JSON.stringify(job.spec, null, 4))),
	scripts: async (view, job, _, signal) => {
		const scripts = await get(`jobs/${part(job.jobid)}/scripts`, {signal})
		view.append(...Object.entries(scripts).map(([name, text]) => el("details",
			{open: name === "run"}, el("summary", {}, name), plain(text))))
	},
	sharing: showSharing
}
const LIVE = {
	history: job => [timeline(job), table(["time", "step", "state", "info"],
		job.history.map(row => [moment(row.time), row.jobndx, state(row.state), row.info]))],
	tasks: job => table(["task", "state", "step", "why"], job.tasks.map(task => [
		task.jobndx ? el("a", {href: jobLink(job.jobid, "log", `stdout.${task.jobndx}`)}, task.task)
			: task.task, state(task.state), task.jobndx, reason(task)])),
	callbacks: job => table(["step", "state", "how", "tries", "answer"], job.callbacks.map(
		event => [event.jobndx, event.state, event.outcome, event.attempts, event.said]))
}

// What may be done with a job as it is; doing(label, action) makes what a button does.
function actionsOf(job, url, doing) {
	const over = isFinal(job.state), isNew = job.state === "new"
	const button = (label, verb, show) => show && el("button", {
		onclick: doing(label, () => post(`${url}/${verb}`))}, label)
	return [
		!over && confirming("Cancel", () => "Cancel it", doing("cancel",
			() => post(`${url}/cancel`))),
		button(over ? "Start again" : "Start", "start", over || isNew),
		button("Start the failed tasks", "start?failed=true", over && job.tasks.length > 0
			&& job.state !== "completed"),
		button("Hold", "hold", job.state === "queued"),
		button("Release", "release", job.state === "queued"),
		el("a", {href: `#/new?from=${part(job.jobid)}`}, "copy as new"),
		over && confirming("Remove", () => "Remove it with its logs and files",
			doing("remove", async () => {
				await ask(`${url}?purge=true`, {method: "DELETE"})
				location.hash = "#/"
				return "gone"
			}))]
}

export async function show([jobid, rest], view, signal) {
	const [tab = "log", ...path] = (rest || "log").split("/").map(decodeURIComponent)
	const url = `jobs/${part(decodeURIComponent(jobid))}`, trouble = alertBox()
	const head = el("div"), actions = el("div", {class: "bar"}), content = el("section")
	const nav = el("nav", {"aria-label": "Parts of the job"})
	let job = await get(`${url}/status`, {signal}), acted = "", drawn = "", shown = null
	let isRefused = false, later = null

	function draw() {
		update(head, heading(job.name || job.jobid), el("p", {}, el("code", {}, job.jobid)),
			why(job), facts(job), job.tasks.length ? el("p", {}, strip(job.tasks, job.jobid)) : "")
		const now = `${job.state} ${job.jobndx}`
		const hasFocus = actions.contains(document.activeElement)
		if (acted !== now) replace(actions, actionsOf(job, url, doing))     // else a question stays
		if (hasFocus && acted !== now) actions.firstElementChild.focus()
		acted = now
		update(nav, TABS.filter(name => job[name]?.length !== 0).map(name => el("a", {
			href: jobLink(job.jobid, name), "aria-current": name === tab && "page"}, name)))
		drawTab()
	}
	function drawTab() {
		if (LIVE[tab]) return update(content, LIVE[tab](job))
		// Logs are shown anew when a step has its first, of an array any; the rest only once.
		const step = job.tasks.length ? "" : `.${job.jobndx}`
		const hasLog = Object.keys(job.logs).some(name => name.endsWith(step))
		const wanted = tab === "log" ? step + hasLog : tab
		clearTimeout(later)
		if (job.state === "active" && !hasLog) later = setTimeout(soon, 2000)
		if (drawn === wanted) return
		drawn = wanted
		shown?.abort()
		shown = new AbortController()
		replace(content)
		Promise.resolve((ONCE[tab] || showLog)(content, job, path.join("/"), shown.signal)).catch(
			error => { if (!signal.aborted) trouble.show(error.message) })
	}
	// Asks until there is an answer; when the job goes on, it is followed.
	async function refresh() {
		while (!signal.aborted) {
			try {
				job = await get(`${url}/status`, {signal})
				isRefused = false
				trouble.show("")
				draw()
				watch()
				return
			} catch (error) {
				if (!signal.aborted) trouble.show(error.message)
				if (error.status === 404) replace(actions)
				isRefused = error.isRefusal
				if (isRefused) return
			}
			await sleep(3, signal)
		}
	}
	const doing = (label, action) => async () => {
		try {
			if (await action() !== "gone" && !signal.aborted) await refresh()
		} catch (error) {
			if (!signal.aborted) say(`${label}: ${error.message}`)
		}
	}
	let waiting = null, watching = false
	const soon = () => {
		if (!isRefused) waiting ??= setTimeout(() => { waiting = null; refresh() }, 500)
	}
	async function watch() {
		if (watching) return
		watching = true
		while (!signal.aborted && !isRefused && !isFinal(job.state)) {
			await follow(`${url}/events`, soon, trouble.show, signal)
			await refresh()
			await sleep(1, signal)
		}
		watching = false
	}
	const clock = setInterval(() => { if (!document.hidden && trouble.hidden) soon() }, 30000)
	signal.addEventListener("abort", () => {
		shown?.abort()
		clearInterval(clock)
		for (const timer of [waiting, later]) clearTimeout(timer)
	})
	view.append(head, trouble, actions, nav, content)
	draw()
	await watch()
}
