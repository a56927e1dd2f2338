// One job: what it does and why, its logs, its files, what it was made from.
import {bytes, confirming, el, heading, isFinal, moment, plain, reason, replace, say, span, state,
	table} from "./dom.js"
import {ask, follow, get, part, post} from "./api.js"
import {showFiles} from "./files.js"
import {showLog} from "./log.js"
import {chart, strip} from "./picture.js"

const ended = job => isFinal(job.state)
const logOf = job => task => `#/job/${part(job.jobid)}/log/stdout.${task.jobndx}`

// When each step waited and ran, as bars on one axis.
function timeline(job) {
	const steps = {}, now = Date.now() / 1000
	for (const row of job.history) (steps[row.jobndx] ??= {})[row.state] ??= row.time
	const rows = Object.entries(steps).filter(([step]) => step > 0).slice(-50).map(([step,
		times]) => {
		const how = Object.keys(times).find(isFinal) || "active"
		const end = times[how] && how !== "active" ? times[how] : now, began = times.active || end
		return {title: `step ${step}: ${how}`, bars: [[times.queued || began, began, "waited"],
			...(times.active ? [[began, end, how]] : [])]}
	})
	const times = rows.flatMap(row => row.bars.flatMap(bar => bar.slice(0, 2)))
	return rows.length ? [chart(`${rows.length} steps: how long they waited and ran`, rows,
		Math.min(...times), Math.max(...times))] : []
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
	const give = async shares => draw(await (await ask(url, {method: "PUT",
		body: JSON.stringify(shares), headers: {"Content-Type": "application/json"}})).json())
	const user = el("input", {id: "user", type: "text", required: true})
	const may = el("select", {id: "may"}, el("option", {value: "GET"}, "look at it"),
		el("option", {value: "POST"}, "change it too"))
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
		"This counts at a server that has several users."))
	draw(await get(url, {signal}))
}

const TABS = {
	log: showLog,
	files: showFiles,
	spec: (view, job) => view.append(el("p", {}, el("a", {href: `#/new?from=${part(job.jobid)}`},
		"copy as a new job")), plain(JSON.stringify(job.spec, null, 4))),
	scripts: async (view, job, _, signal) => {
		const scripts = await get(`jobs/${part(job.jobid)}/scripts`, {signal})
		view.append(...Object.entries(scripts).map(([name, text]) => el("details",
			{open: name === "run"},
			el("summary", {}, name), plain(text))))
	},
	history: (view, job) => view.append(...timeline(job), table(["time", "step", "state", "info"],
		job.history.map(row => [moment(row.time), row.jobndx, state(row.state), row.info]))),
	tasks: (view, job) => view.append(table(["task", "state", "step", "why"], job.tasks.map(
		task => [task.jobndx ? el("a", {href: logOf(job)(task)}, task.task) : task.task,
			state(task.state), task.jobndx, reason(task)]))),
	sharing: showSharing,
	callbacks: (view, job) => view.append(table(["step", "state", "how", "tries", "answer"],
		job.callbacks.map(event => [event.jobndx, event.state, event.outcome, event.attempts,
			event.said])))
}

export async function show([jobid, rest], view, signal) {
	const [tab = "log", ...path] = (rest || "log").split("/").map(decodeURIComponent)
	const url = `jobs/${part(decodeURIComponent(jobid))}`
	const head = el("div"), actions = el("div", {class: "bar"}), content = el("section")
	const doing = (label, action) => async () => {
		try {
			await action()
			if (!signal.aborted) await refresh()
		} catch (error) {
			if (!signal.aborted) say(`${label}: ${error.message}`)
		}
	}
	let job = await get(`${url}/status`, {signal})

	function draw(anew = true) {
		replace(head, heading(job.name || job.jobid), el("p", {}, el("code", {}, job.jobid)),
			why(job), facts(job), job.tasks.length ? el("p", {}, strip(job.tasks, logOf(job))) : "")
		if (!anew) return   // a question that stands there stays
		const over = ended(job), button = (label, verb, show) => show && el("button", {
			onclick: doing(label, () => post(`${url}/${verb}`))}, label)
		replace(actions,
			!over && job.state !== "new" && confirming("Cancel", "Cancel it",
				doing("cancel", () => post(`${url}/cancel`))),
			button(over ? "Start again" : "Start", "start", over || job.state === "new"),
			button("Start the failed tasks", "start?failed=true", over && job.tasks.length
				&& job.state !== "completed"),
			button("Hold", "hold", job.state === "queued"), button("Release", "release",
				job.state === "queued"),
			el("a", {href: `#/new?from=${part(job.jobid)}`}, "copy as new"),
			(over || job.state === "new") && confirming("Remove",
				"Remove it with its logs and files", doing("remove", async () => {
					await ask(`${url}?purge=true`, {method: "DELETE"})
					location.hash = "#/"
				})))
	}
	let followed = false
	async function watch() {    // as long as it goes on, also when it was started again
		if (followed || ended(job)) return
		followed = true
		let waiting = null
		await follow(`${url}/events`, () => {
			waiting = waiting || setTimeout(() => { waiting = null; refresh().catch(() => {}) },
				500)
		}, signal)
		followed = false
	}
	async function refresh() {
		const before = JSON.stringify([job.state, job.jobndx])
		job = await get(`${url}/status`, {signal})
		draw(before !== JSON.stringify([job.state, job.jobndx]))
		watch()
		if (["history", "tasks", "callbacks"].includes(tab)) {
			replace(content)
			await TABS[tab](content, job, path.join("/"), signal)
		}
	}
	draw()
	const names = Object.keys(TABS).filter(name => (name !== "tasks" || job.tasks.length)
		&& (name !== "callbacks" || job.callbacks.length))
	view.append(head, actions, el("nav", {"aria-label": "Parts of the job"},
		names.map(name => el("a", {
		href: `#/job/${part(job.jobid)}/${name}`, "aria-current": name === tab && "page"}, name))),
			content)
	watch()
	await (TABS[tab] || showLog)(content, job, path.join("/"), signal)
}
