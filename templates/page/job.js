// One job: what it does and why, its logs, its files, what it was made from.
import {bytes, chart, confirming, el, isFinal, moment, plain, replace, say, span, state,
	table} from "./dom.js"
import {ask, base, follow, get, part, post, token} from "./api.js"
import {showLog} from "./log.js"

const ended = job => isFinal(job.state)

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
		([name, value]) => [el("dt", {}, name), el("dd", {}, value)]))
}

function why(job) {
	if (!job.why?.cause || job.state === "completed") return ""
	return el("div", {class: job.state === "failed" ? "box" : "box wait"}, el("strong", {},
		job.why.cause),
		(job.why.evidence || []).map(line => plain(line, {class: "wrap"})),
		job.why.way_out ? el("p", {}, "→ ", job.why.way_out) : "")
}

async function showFiles(view, job, folder, signal) {
	const url = `jobs/${part(job.jobid)}/files/`, list = el("div")
	const below = name => (folder ? folder + "/" : "") + name
	const send = async files => {
		for (const file of files) {
			try {
				await ask(url + part(below(file.name)), {method: "PUT", body: file})
			} catch (error) {
				say(`${file.name}: ${error.message}`)
			}
		}
		draw()
	}
	const blob = async path => {
		const made = URL.createObjectURL(await (await ask(path, {signal})).blob())
		setTimeout(() => URL.revokeObjectURL(made), 60000)
		return made
	}
	// Without a token the server saves the file itself; with one it goes through memory.
	const save = async (path, name) => el("a", {href: token() ? await blob(path) : base + path,
		download: name}).click()
	const preview = async name => {
		const place = view.querySelector("#preview")
		if (/\.(png|jpe?g|gif|webp)$/i.test(name)) {
			return replace(place, el("img", {
				src: await blob(url + part(below(name))), alt: name}))
		}
		const head = await ask(url + part(below(name)), {headers: {Range: "bytes=0-65535"}})
			.then(answer => answer.text(), error => error.status === 416 ? "" : error.message)
		replace(place, el("h2", {}, name, head.length < 65536 ? "" : ", its beginning"),
			plain(head))
	}
	async function draw() {
		const found = await get(folder ? url + part(folder) : `jobs/${part(job.jobid)}/files`,
			{signal})
		replace(list, table(["name", "size", "changed", ""], Object.entries(found).map(
			([name, file]) => [el("button", {onclick: () => open(name)}, name), bytes(file.size),
				moment(file.mtime), [el("button", {onclick: () => save(url + part(below(name)),
					name)}, "download"), " ",
					confirming("remove", "Remove it", async () => {
						await ask(url + part(below(name)), {method: "DELETE"})
						draw()
					})]])),
		Object.keys(found).length ? "" : el("p", {class: "quiet"}, "There are no files."))
	}
	async function open(name) {
		const answer = await ask(url + part(below(name)), {method: "HEAD"})
		if (answer.headers.get("Content-Type").startsWith("application/json")) {
			location.hash = `#/job/${part(job.jobid)}/files/${part(below(name))}`
		} else preview(name)
	}
	const archive = () => save(`jobs/${part(job.jobid)}/archive?path=${encodeURIComponent(folder)}`,
		`${job.jobid}.tar.gz`)
	const up = folder.split("/").slice(0, -1).join("/")
	const drop = el("div", {ondragover: event => { event.preventDefault(); drop.classList.add(
		"drop") },
		ondragleave: () => drop.classList.remove("drop"), ondrop: event => {
			event.preventDefault()
			drop.classList.remove("drop")
			send([...event.dataTransfer.files])
		}},
	el("div", {class: "bar"},
		folder ? el("a", {href: `#/job/${part(job.jobid)}/files/${part(up)}`}, "↑ " + (up || "top"))
			: "",
		el("code", {}, folder || "."),
		el("label", {}, "upload ", el("input", {type: "file", multiple: true,
			onchange: event => send([...event.target.files])})),
		el("button", {onclick: archive}, "download all of it"),
		el("span", {class: "quiet"}, "or drop files here")), list, el("div", {id: "preview"}))
	view.append(drop)
	await draw()
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
		task => [task.task, state(task.state), task.jobndx, task.reason]))),
	callbacks: (view, job) => view.append(table(["step", "state", "how", "tries", "answer"],
		job.callbacks.map(event => [event.jobndx, event.state, event.outcome, event.attempts,
			event.said])))
}

export async function showJob([jobid, rest], view, signal) {
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
		replace(head, el("h1", {}, job.name || job.jobid), el("p", {}, el("code", {}, job.jobid)),
			why(job),
			facts(job))
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
