// A new job: of an application, with a form of its own, or of a script.
import {alertBox, bytes, el, heading, jobLink, options, plain, replace, say} from "./dom.js"
import {curl, faultText, get, make, newKey, part, post, quoted} from "./api.js"
import {filePlace} from "./files.js"
import {form} from "./form.js"
import {upload} from "./upload.js"

const FIRST = ["name", "script"]
const NEXT = ["array", "at_once", "after", "setup"]     // the other fields follow them
const ELSEWHERE = [...FIRST, "resources", "backend", "application", "inputs"]
const ACCOUNT = ["project_name", "reservation_id"]
const EXAMPLE = {name: "hello", script: "#!/bin/sh\nhostname\n"}
const AFTER = {"": "after it ended well", "any:": "after it ended, however",
	"notok:": "after it failed"}

const some = (properties, names) => Object.fromEntries(names.filter(name => properties[name]).map(
	name => [name, properties[name]]))
const named = (values = {}) => Object.fromEntries(Object.entries(values || {}).filter(
	([, value]) => value !== null && !["\"\"", "{}", "[]"].includes(JSON.stringify(value))))
const labelled = (id, label, ...input) => el("div", {class: "field"}, el("label", {for: id}, label),
	input)

// Says that a field was changed, also where a script did that.
const changed = element => element.dispatchEvent(new Event("input", {bubbles: true}))
const without = (values, names) => Object.fromEntries(Object.entries(values).filter(
	([name]) => !names.includes(name)))

// A form whose submit(key) gives the id of a job, to which it goes.  What is refused is said at its
// field, the rest below the button.  The key stays where no answer came and nothing was changed.
function jobForm(forms, submit, signal, ...children) {
	const said = alertBox(), button = el("button", {class: "main"}, "Submit")
	const stay = event => event.preventDefault()    // the browser asks before a reload
	let key = newKey()
	signal.addEventListener("abort", () => removeEventListener("beforeunload", stay))
	const onsubmit = async event => {
		event.preventDefault()
		button.disabled = true
		said.show("")
		try {
			const jobid = await submit(key)
			if (!signal.aborted) location.hash = jobLink(jobid)
		} catch (error) {
			if (error.status) key = newKey()
			const rest = forms.reduce((left, each) => each.show(left), error.faults || [])
			said.show(error.faults?.length && !rest.length ? "Please correct the marked fields."
				: rest.map(faultText).join("; ") || error.message)
			event.target.querySelector("[aria-invalid=true]")?.focus()
		}
		button.disabled = false
	}
	const oninput = () => {
		key = newKey()
		addEventListener("beforeunload", stay)
	}
	return el("form", {onsubmit, oninput}, children, el("div", {class: "bar"}, button), said)
}

function applicationForm(app, values, signal) {
	const fields = form(app.inputs.properties, values, {required: app.inputs.required})
	const slots = app.needs.map(name => [name, el("input", {type: "file", id: `needs-${name}`})])
	const archive = el("input", {type: "file", id: "upload", accept: ".zip,.tar,.tar.gz,.tgz"})
	const submit = key => {
		const path = `applications/${part(app.name)}`, values = fields.read()
		const files = Object.values(values).some(each => each instanceof File)
		if (!files && !app.takes_files) return make(path, key, values)
		const body = new FormData()
		for (const [name, value] of Object.entries(values)) {
			body.append(name, typeof value === "string" || value instanceof File ? value
				: JSON.stringify(value))
		}
		for (const [name, input] of slots) {
			if (input.files[0]) body.append("files", input.files[0], name)
		}
		if (archive.files[0]) body.append("upload", archive.files[0])
		return make(path, key, body)
	}
	return jobForm([fields], submit, signal, el("p", {}, app.description || app.summary),
		fields.fields, app.takes_files ? el("fieldset", {}, el("legend", {}, "files"),
			slots.map(([name, input]) => labelled(`needs-${name}`, name, input)),
			labelled("upload", "or an archive of them", archive)) : "")
}

// The rows of a CSV as objects whose names its header gives; Error if it is none.
function readCsv(text) {
	const taken = [...text.replace(/^\ufeff/, "").trimEnd().matchAll(
		/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/gy)]
	let rows = [[]]
	for (const [, inQuotes, bare, end] of taken) {
		rows.at(-1).push(inQuotes?.replaceAll('""', '"') ?? bare)
		if (end === "") break
		if (end !== ",") rows.push([])
	}
	rows = rows.filter(row => row.length > 1 || row[0])     // as Python's csv, without empty lines
	const [head = [], ...tasks] = rows, wrong = tasks.findIndex(row => row.length !== head.length)
	if (text.includes("\ufffd")) throw new Error("is not UTF-8")
	if (new Set(head).size < head.length) throw new Error("names a column twice")
	if (taken.at(-1)?.[3] !== "" || !tasks.length) throw new Error("is not a CSV with a header")
	if (wrong >= 0) throw new Error(`has ${tasks[wrong].length} and not ${head.length} fields in `
		+ `row ${wrong + 2}`)
	return tasks.map(row => Object.fromEntries(row.map((value, at) => [head[at], value])))
}
const csvPicker = input => el("label", {}, "or a CSV, a task a row ", el("input", {type: "file",
	accept: ".csv,text/csv", onchange: async event => {
		const file = event.target.files[0]
		try {
			input.value = JSON.stringify(readCsv(await file.text()))
			changed(input)
		} catch (error) {
			say(`${file.name} ${error.message}`)
		}
		event.target.value = ""
	}}))

// Jobs to wait for, chosen from the newest.
function jobPicker(input, jobs) {
	const how = el("select", {"aria-label": "when it may start"}, options(Object.entries(AFTER)))
	const which = el("select", {"aria-label": "add a job to wait for", onchange: () => {
		input.value = [input.value.trim(), how.value + which.value].filter(Boolean).join("\n")
		which.value = ""
		changed(input)
	}}, options([["", "add a job"], ...jobs.map(job => [job.jobid,
		`${job.name || job.jobid} · ${job.state} · ${job.jobid}`])]))
	return [how, which]
}

// Where it runs: the backend, its queues with what is free in them, and who is charged.
function placeFields(backends, properties, {spec, query, backend: chosen}) {
	const backend = el("select", {id: "backend"}, options(Object.keys(backends),
		query.get("backend") || chosen))
	const queue = el("input", {id: "queue", list: "queues", type: "text",
		value: query.get("queue") || spec.backend?.queue_name || ""})
	const queues = el("datalist", {id: "queues"}), free = el("small")
	const account = form(some(properties, ACCOUNT), spec.backend || {})
	const askQueues = async () => {
		const wanted = backend.value
		const found = await get(`backends/${part(wanted)}/queues`).catch(() => [])
		if (wanted !== backend.value) return
		replace(queues, options(found.map(each => each.name)))
		free.textContent = found.map(each => `${each.name}: ${each.free_nodes ?? "?"} of ${
			each.nodes ?? "?"} nodes free`).join(", ")
	}
	backend.addEventListener("change", askQueues)
	askQueues()
	const settings = () => {
		const given = {...without(named(spec.backend), ACCOUNT), queue_name: queue.value || null,
			...account.read()}
		return Object.keys(named(given)).length ? {backend: {...given,
			type: backends[backend.value].system_type}} : {}
	}
	return {name: () => backend.value, settings, form: account, element: el("fieldset", {},
		el("legend", {}, "where"), labelled("backend", "backend", backend),
		labelled("queue", "queue", queue, queues, free), account.fields)}
}

// Files that the job finds in its work directory.
function inputFiles() {
	const files = new Map(), list = el("ul")
	const draw = () => {
		const remove = path => el("button", {type: "button",
			onclick: () => { files.delete(path); draw() }}, "remove")
		replace(list, [...files].map(([path, file]) => el("li", {},
			`${path}, ${bytes(file.size)} `, remove(path))))
		changed(list)
	}
	const add = some => { some.forEach(([path, file]) => files.set(path, file)); draw() }
	return {files, element: el("fieldset", {}, el("legend", {}, "input files"),
		filePlace("add", "inputs", add, list))}
}

// The form of a job from a script; source: {spec, query, backend} of what it begins with.
function scriptForm(schemas, source, {backends, jobs}, signal) {
	const {spec} = source
	const all = schemas.JobSpec.properties, first = form(some(all, FIRST), spec)
	const asked = form(schemas.ResourceSpec.properties, spec.resources)
	const rest = form({...some(all, NEXT), ...without(all, ELSEWHERE)}, spec, {extras: {
		array: csvPicker, after: input => jobPicker(input, jobs)}})
	const place = placeFields(backends, schemas.BackendConfig.properties, source)
	const inputs = inputFiles(), target = () => `?backend=${part(place.name())}`
	const whole = () => ({...first.read(), ...rest.read(), resources: asked.read(),
		...place.settings()})
	const lines = plain(""), commands = el("details", {}, el("summary", {},
		"the same on the command line"), lines)
	const showLines = () => {
		if (!commands.open) return
		const text = JSON.stringify(whole(), null, 1)
		const tops = new Set([...inputs.files.keys()].map(path => path.split("/")[0]))
		const files = [...tops].map(name => ` --in=${quoted(name)}`).join("")
		const made = how => curl("POST", `/v1/jobs${how}${target()}`, "--json", quoted(text))
		lines.textContent = [
			`psik.py run --backend ${quoted(place.name())}${files} - <<'END'`, text, "END",
			"", files ? [`JOB=$(${made("/new")} | tr -d '"')`,
				...[...inputs.files.keys()].map(path => curl("PUT",
					`/v1/jobs/$JOB/files/${part(path)}`, "-f", "-T", quoted(path))),
				curl("POST", "/v1/jobs/$JOB/start")].join(" &&\n") : made("")].join("\n")
	}
	const progress = el("p", {role: "status"})
	async function submit(key) {
		if (!inputs.files.size) return make(`jobs${target()}`, key, whole())
		const jobid = await make(`jobs/new${target()}`, key, whole())
		try {
			for (const [path, file] of inputs.files) {
				await upload(`jobs/${part(jobid)}/files/${part(path)}`, file, 0,
					done => { progress.textContent = `${path}: ${bytes(done)}` }, signal)
			}
			await post(`jobs/${part(jobid)}/start`)
		} catch (error) {
			say(`Job ${jobid} was made but not submitted: ${error.message}`)
		}
		return jobid
	}
	const made = jobForm([first, place.form, asked, rest], submit, signal, first.fields,
		inputs.element, place.element,
		el("fieldset", {}, el("legend", {}, "what it needs"), asked.fields),
		el("details", {}, el("summary", {}, "more: arrays, jobs to wait for, set-up, callbacks"),
			rest.fields), commands, progress)
	for (const kind of ["input", "change", "toggle"]) made.addEventListener(kind, showLines, true)
	return made
}

export async function show([text], view, signal) {
	const query = new URLSearchParams(text || ""), from = query.get("from")
	const [api, backends, apps, jobs, copied] = await Promise.all([get("openapi.json", {signal}),
		get("backends", {signal}), get("applications", {signal}).catch(() => []),
		get("jobs?detail=true&limit=50", {signal}),
		from ? get(`jobs/${part(from)}/status`, {signal}) : {spec: {}}])
	const {spec} = copied, source = {query, backend: copied.backend,
		spec: from ? {...spec, directory: null} : EXAMPLE}
	const offered = apps.filter(app => !app.interactive), place = el("div")
	const pick = name => {
		const app = offered.find(each => each.name === name)
		replace(place, app ? applicationForm(app, spec.application === name ? spec.inputs : {},
			signal) : scriptForm(api.components.schemas, source, {backends, jobs}, signal))
	}
	const first = query.get("app") || spec.application || ""
	view.append(heading("New job"), offered.length ? labelled("kind", "what it runs",
		el("select", {id: "kind", onchange: event => pick(event.target.value)},
			options([["", "a script of your own"], ...offered.map(app => [app.name, app.summary
				? `${app.name}: ${app.summary}` : app.name])], first))) : "", place)
	pick(first)
	if (spec.callback) say("The secrets of its callback are not copied: give them again.")
	if (from && spec.application && !offered.some(app => app.name === spec.application)) {
		say(`the application ${spec.application} is not offered any more`)
	}
}
