// A new job: of an application, with a form of its own, or of a script.
import {el, plain, replace, say} from "./dom.js"
import {ask, base, get, part, post} from "./api.js"
import {form} from "./form.js"

const FIRST = ["name", "script"]
const RESOURCES = ["duration", "node_count", "process_count", "cpu_cores_per_process",
	"memory_per_process",
	"gpu_cores_per_process"]
const REST = ["setup", "environment", "array", "after", "join_output", "requeue", "callback",
	"cb_secret",
	"callback_on", "directory"]
const EXAMPLE = {name: "hello", script: "#!/bin/sh\nhostname\n"}

const some = (properties, names) => Object.fromEntries(names.filter(name => properties[name]).map(
	name => [name, properties[name]]))
const named = values => Object.fromEntries(Object.entries(values).filter(
	([, value]) => value !== null && value !== "" && JSON.stringify(value) !== "{}"
		&& JSON.stringify(value) !== "[]"))

// Sends, and goes to the job; what is refused is said at its field, the rest below the button.
function sending(fields, send) {
	const said = el("p", {class: "box", role: "alert", hidden: true})
	const button = el("button", {class: "main", onclick: async event => {
		event.preventDefault()
		button.disabled = true
		said.hidden = true
		try {
			location.hash = `#/job/${part(await send())}`
		} catch (error) {
			const rest = fields.reduce((left, each) => each.show(left), error.faults || [])
			said.textContent = error.faults?.length && !rest.length
				? "Some fields are not right yet."
				: rest.map(fault => `${fault.loc.slice(1).join(".")} ${fault.msg}`.trim())
					.join("; ") || error.message
			said.hidden = false
		}
		button.disabled = false
	}}, "Submit")
	return [el("div", {class: "bar"}, button), said]
}

function applicationForm(app, values) {
	const fields = form(app.inputs.properties, values, app.inputs.required)
	const slots = app.needs.map(name => [name, el("input", {type: "file", id: `needs-${name}`})])
	const archive = el("input", {type: "file", id: "upload", accept: ".zip,.tar,.tar.gz,.tgz"})
	const send = async () => {
		const values = fields.read(), files = Object.values(values).some(
			each => each instanceof File)
		if (!files && !app.takes_files) return post(`applications/${part(app.name)}`, values)
		const body = new FormData()
		for (const [name, value] of Object.entries(values)) {
			body.append(name, typeof value === "string" || value instanceof File ? value
				: JSON.stringify(value))
		}
		for (const [name, input] of slots) {
			if (input.files[0]) body.append("files", input.files[0], name)
		}
		if (archive.files[0]) body.append("upload", archive.files[0])
		return (await ask(`applications/${part(app.name)}`, {method: "POST", body})).json()
	}
	return el("form", {}, el("p", {}, app.description || app.summary), fields.fields,
		app.takes_files ? el("fieldset", {}, el("legend", {}, "files"), slots.map(([name,
			input]) => el("div", {
			class: "field"}, el("label", {for: `needs-${name}`}, name), input)),
		el("div", {class: "field"}, el("label", {for: "upload"}, "or an archive of them"), archive))
			: "",
		sending([fields], send))
}

function scriptForm(schemas, spec, backends) {
	const all = schemas.JobSpec.properties, needs = schemas.ResourceSpec.properties
	const first = form(some(all, FIRST), spec), asked = form(some(needs, RESOURCES), spec.resources)
	const rest = form(some(all, REST), named(spec))
	const backend = el("select", {id: "backend"}, Object.keys(backends).map(name => el("option",
		{value: name}, name)))
	const queue = el("input", {id: "queue", list: "queues", type: "text",
		value: spec.backend?.queue_name || ""})
	const queues = el("datalist", {id: "queues"})
	const free = el("small")
	const askQueues = async () => {
		replace(queues)
		free.textContent = ""
		const found = await get(`backends/${part(backend.value)}/queues`).catch(() => [])
		queues.append(...found.map(each => el("option", {value: each.name})))
		free.textContent = found
			.map(
			each => `${each.name}: ${each.free_nodes ?? "?"} of ${each.nodes ?? "?"} nodes free`)
			.join(", ")
	}
	backend.addEventListener("change", askQueues)
	askQueues()
	// What the form does not show stays as it was in the job that is copied.
	const kept = Object.fromEntries(Object.entries(named(spec)).filter(([name]) => ![...FIRST,
		...REST,
		"resources", "backend", "application", "inputs"].includes(name)))
	const whole = () => ({...kept, ...first.read(), ...rest.read(),
		resources: {...named(spec.resources || {}), ...asked.read()},
		...(queue.value || spec.backend ? {backend: {...named(spec.backend || {}),
			type: backends[backend.value].system_type, queue_name: queue.value || null}} : {})})
	const lines = plain("")
	const copy = event => {
		if (!event.target.open) return
		const text = JSON.stringify(whole(), null, 1), name = backend.value
		const url = location.origin + base + `jobs?backend=${part(name)}`
		lines.textContent = [`psik.py run --backend ${name} - <<'END'`, text, "END", "",
			`curl --json '${text.replaceAll("'", "'\\''")}' '${url}'`].join("\n")
	}
	return el("form", {}, first.fields,
		el("fieldset", {}, el("legend", {}, "where"),
			el("div", {class: "field"}, el("label", {for: "backend"}, "backend"), backend),
			el("div", {class: "field"}, el("label", {for: "queue"}, "queue"), queue, queues, free)),
		el("fieldset", {}, el("legend", {}, "what it needs"), asked.fields),
		el("details", {}, el("summary", {}, "more"), rest.fields),
		el("details", {ontoggle: copy}, el("summary", {}, "the same on the command line"), lines),
		sending([first, asked, rest], async () => post(`jobs?backend=${part(backend.value)}`,
			whole())))
}

export async function showNew([query], view, signal) {
	const from = new URLSearchParams(query || "").get("from"), wanted = new URLSearchParams(query
		|| "").get("app")
	const [api, backends, apps] = await Promise.all([get("openapi.json", {signal}),
		get("backends", {signal}),
		get("applications", {signal}).catch(() => [])])
	const spec = from ? await get(`jobs/${part(from)}/spec`, {signal}) : {}
	const offered = apps.filter(app => !app.interactive), place = el("div")
	const pick = name => {
		const app = offered.find(each => each.name === name)
		replace(place, app ? applicationForm(app, spec.application === name ? spec.inputs : {})
			: scriptForm(api.components.schemas, from ? {...spec, directory: null} : EXAMPLE,
				backends))
	}
	const first = wanted || spec.application || ""
	view.append(el("h1", {}, "New job"), offered.length ? el("div", {class: "field"},
		el("label", {for: "kind"}, "what it runs"), el("select", {id: "kind",
			onchange: event => pick(event.target.value)},
			el("option", {value: ""}, "a script of your own"), offered.map(app => el("option", {
				value: app.name, selected: app.name === first}, app.summary
					? `${app.name}: ${app.summary}` : app.name)))) : "",
	place)
	pick(first)
	if (from && spec.application && !offered.some(app => app.name === spec.application)) {
		say(`the application ${spec.application} is not offered any more`)
	}
}
