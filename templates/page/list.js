// The jobs: live, filtered by the server, each in a row of its own.
import {confirming, el, moment, plain, say, span, state} from "./dom.js"
import {ask, follow, get, part, post} from "./api.js"

const STATES = ["active", "queued", "new", "failed", "canceled", "completed"]
const PERIODS = {"": "any time", 3600: "the last hour", 86400: "the last day",
	604800: "the last week"}
const PAGE = 100

// What is known of a job's progress: how long of its walltime, or how many tasks of an array.
function progress(job) {
	if (job.tasks) {
		const all = Object.values(job.tasks).reduce((sum, count) => sum + count, 0)
		const done = job.tasks.completed, failed = job.tasks.failed + job.tasks.canceled
		return [el("progress", {max: all, value: done + failed,
			"aria-label": "tasks that have ended"}),
			` ${done}/${all} done${failed ? `, ${failed} failed` : ""}`]
	}
	const elapsed = span(job.elapsed)
	if (job.state !== "active" || !job.duration) return elapsed
	return [el("progress", {max: job.duration * 60, value: job.elapsed,
		"aria-label": "of its walltime"}),
		` ${elapsed} of ${span(job.duration * 60)}`]
}

function cells(job) {
	return [
		el("td", {}, state(job.state)),
		el("td", {}, el("a", {class: "id", href: `#/job/${part(job.jobid)}`}, job.jobid)),
		el("td", {class: "name"}, job.name, job.application && job.application !== job.name
			? el("span", {class: "quiet"}, ` (${job.application})`) : ""),
		el("td", {class: "wide"}, job.backend),
		el("td", {}, progress(job)),
		el("td", {class: "why wide"}, (job.tasks ? "" : job.reason) || (job.state === "failed"
			? `exit ${job.info}` : "")),
		el("td", {class: "wide"}, moment(job.updated))]
}

export async function showList([query], view, signal) {
	const filter = new URLSearchParams(query || "")
	const chosen = new Set(), rows = new Map()
	const body = el("tbody"), count = el("span", {class: "quiet", role: "status"})
	const more = el("button", {onclick: () => load(rows.size)}, "older jobs")
	let wanted = PAGE

	const set = (name, value) => {
		value ? filter.set(name, value) : filter.delete(name)
		history.replaceState(null, "", `#/?${filter}`)
		wanted = PAGE
		load(0)
	}
	const chips = STATES.map(name => el("button", {
		"aria-pressed": String(filter.get("state") === name), onclick: event => {
			const is = filter.get("state") === name
			set("state", is ? "" : name)
			chips.forEach(chip => chip.setAttribute("aria-pressed", "false"))
			event.currentTarget.setAttribute("aria-pressed", String(!is))
		}}, state(name), " ", el("span", {class: "quiet", "data-count": name})))
	const search = el("input", {type: "search", placeholder: "name, or sweep*",
		value: filter.get("name") || "",
		"aria-label": "Filter by name", onchange: event => set("name", event.target.value)})
	const pick = (label, name, options) => el("select", {"aria-label": label,
		onchange: event => set(name, event.target.value)}, options.map(([value, text]) => el(
		"option", {value, selected: (filter.get(name) || "") === value}, text)))
	const backends = pick("Backend", "backend", [["", "all backends"]])
	const since = pick("Made", "since", Object.entries(PERIODS))

	const act = (label, verb) => async () => {
		const jobs = [...chosen]
		for (const jobid of jobs) {
			try {
				await verb(part(jobid))
			} catch (error) {
				say(`${label} ${jobid}: ${error.message}`)
			}
		}
		chosen.clear()
		load(0)
	}
	const actions = el("span", {class: "bar last", hidden: true},
		confirming("Cancel", "Cancel them", act("cancel",
			id => post(`jobs/${id}/cancel`))),
		el("button", {onclick: act("start", id => post(`jobs/${id}/start`))}, "Start again"),
		confirming("Remove", "Remove them and their files",
			act("remove", id => ask(`jobs/${id}?purge=true`, {method: "DELETE"}))))

	function put(job, before) {
		const known = rows.get(job.jobid)
		const row = known || el("tr", {onanimationend: () => row.classList.remove("changed")},
			el("td", {}, el("input", {type: "checkbox", "aria-label": `Select ${job.jobid}`,
				onchange: event => {
					event.target.checked ? chosen.add(job.jobid) : chosen.delete(job.jobid)
					actions.hidden = !chosen.size
				}})))
		cells(job).forEach((cell, at) => {  // only those that differ: who is in one stays there
			const old = row.children[at + 1]
			if (!old) row.append(cell)
			else if (!old.isEqualNode(cell)) old.replaceWith(cell)
		})
		if (known && row.dataset.state !== job.state) row.classList.add("changed")
		row.dataset.state = job.state
		rows.set(job.jobid, row)
		if (body.children[before] !== row) body.insertBefore(row, body.children[before] || null)
	}

	// One at a time, so that the answer to an older filter never comes last.
	let loading = Promise.resolve()
	const load = index => {
		loading = loading.catch(() => {}).then(() => fetchJobs(index))
		return loading
	}
	async function fetchJobs(index) {
		if (index) wanted = index + PAGE
		const asked = new URLSearchParams(filter)
		if (filter.get("since")) asked.set("since", Math.floor(Date.now() / 1000 - filter.get(
			"since")))
		const jobs = await get(`jobs?detail=true&limit=${wanted}&${asked}`, {signal})
		jobs.forEach(put)
		const found = new Set(jobs.map(job => job.jobid))
		for (const [jobid, row] of rows) if (!found.has(jobid)) {
			row.remove()
			rows.delete(jobid)
			chosen.delete(jobid)
		}
		actions.hidden = !chosen.size
		more.hidden = jobs.length < wanted
		const text = jobs.length ? `${jobs.length}${more.hidden ? "" : " newest"} jobs` : ""
		if (count.textContent !== text) count.textContent = text
		for (const name of STATES) {
			const number = jobs.filter(job => job.state === name).length
			view.querySelector(`[data-count=${name}]`).textContent = number || ""
		}
		empty.hidden = jobs.length > 0
		empty.replaceChildren(...([...filter].length ? [el("p", {},
			"No job is like that.")] : [
			el("p", {}, "No jobs yet. Type, where psik.py is:"),
			plain("psik.py run -- hostname\npsik.py ls\npsik.py logs -f last"),
			el("p", {}, el("a", {href: "#/new"}, "or make one here"))]))
	}

	const empty = el("div", {hidden: true})
	const lost = el("p", {class: "box", role: "alert", hidden: true})
	view.append(
		el("h1", {}, "Jobs"),
		el("div", {class: "bar"}, chips),
		el("div", {class: "bar"}, search, backends, since, count, actions), lost,
		el("div", {class: "scroll"}, el("table", {}, el("thead", {}, el("tr", {},
			["", "state", "id", "name", "backend", "progress", "why", "changed"]
				.map(head => el("th", {
				scope: "col", class: ["backend", "why", "changed"].includes(head) ? "wide" : ""},
					head
				|| el("span", {class: "quiet"}, "☐"))))), body)),
		more, empty)
	const trouble = text => { lost.textContent = text; lost.hidden = !text }
	get("backends", {signal}).then(found => backends.append(...Object.keys(found).map(name => el(
		"option", {value: name, selected: filter.get("backend") === name}, name))), () => {})
	// Whatever happens to a job, the list is asked for anew, at most once a second.
	let waiting = null
	const soon = () => {
		waiting = waiting || setTimeout(() => {
			waiting = null
			if (!signal.aborted) load(0).then(() => trouble(""), error => {
				if (!signal.aborted) trouble(error.message)
			})
		}, 1000)
	}
	const clock = setInterval(soon, 30000)
	signal.addEventListener("abort", () => { clearInterval(clock); clearTimeout(waiting) })
	follow("events", soon, signal, trouble)
	await load(0).catch(error => { if (!signal.aborted) trouble(error.message) })
}
