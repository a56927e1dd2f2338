// The jobs: live, filtered by the server, each in a row of its own.
import {alertBox, confirming, el, heading, jobLink, moment, options, plain, reason, say, span,
	state, STATES, sum, update} from "./dom.js"
import {ask, follow, get, part, post} from "./api.js"
import {share, strip} from "./picture.js"

const PERIODS = {"": "any time", 3600: "the last hour", 86400: "the last day",
	604800: "the last week"}
const PAGE = 50

// What is known of a job's progress: how long of its walltime, or how many tasks of an array.
function progress(job, tasks) {
	if (job.tasks) {
		const failed = job.tasks.failed + job.tasks.canceled
		return [share(job.tasks), ` ${job.tasks.completed}/${sum(job.tasks)} done${
			failed ? `, ${failed} failed` : ""}`, tasks && el("div", {}, strip(tasks, job.jobid))]
	}
	const elapsed = span(job.elapsed)
	if (job.state !== "active" || !job.duration) return elapsed
	return [el("progress", {max: job.duration * 60, value: job.elapsed,
		"aria-label": "of its walltime"}), ` ${elapsed}, `, el("span", {class: "quiet"},
		`${span(Math.max(0, job.duration * 60 - job.elapsed))} left`)]
}

export async function show([query], view, signal) {
	const filter = new URLSearchParams(query || "")
	const chosen = new Set(), rows = new Map(), tasks = new Map()   // tasks: of unfolded arrays
	const since = filter.get("since") || "", periods = {...PERIODS}
	periods[since] ??= `the last ${span(Number(since))}`
	const body = el("tbody"), count = el("span", {class: "quiet", role: "status"})
	const empty = el("div"), trouble = alertBox()

	const set = (name, value) => {
		value ? filter.set(name, value) : filter.delete(name)
		if (name !== "page") filter.delete("page")
		press()
		history.replaceState(null, "", `#/?${filter}`)
		counted = -Infinity
		soon(200)
	}
	const chips = STATES.map(name => el("button", {onclick: () => set("state",
		filter.get("state") === name ? "" : name)}, state(name), " ", el("span", {class: "quiet"})))
	const press = () => chips.forEach((chip, at) => chip.setAttribute("aria-pressed",
		filter.get("state") === STATES[at]))
	press()
	const search = el("input", {type: "search", placeholder: "name, or sweep-*", size: 16,
		value: filter.get("name") || "", "aria-label": "Filter by name",
		oninput: () => set("name", search.value)})
	const pick = (label, name, pairs) => el("select", {"aria-label": label,
		onchange: event => set(name, event.target.value)}, options(pairs, filter.get(name) || ""))
	const backends = pick("Backend", "backend", [["", "all backends"]])
	const page = () => Math.max(1, Number(filter.get("page")) || 1)
	const turn = (text, step) => el("button", {onclick: () => set("page", page() + step)}, text)
	const newer = turn("newer", -1), older = turn("older", 1)

	const act = (label, verb) => async () => {
		const jobs = [...chosen]
		search.focus()      // the buttons go
		chosen.clear()
		showChosen()
		for (const jobid of jobs) {
			try {
				await verb(part(jobid))
			} catch (error) {
				say(`${label} ${jobid}: ${error.message}`)
			}
		}
		soon(200)
	}
	const actions = el("span", {class: "bar last", hidden: true}, el("span", {class: "quiet"}),
		confirming("Cancel", () => `Cancel ${chosen.size}`, act("cancel",
			id => post(`jobs/${id}/cancel`))),
		el("button", {onclick: act("start", id => post(`jobs/${id}/start`))}, "Start again"),
		confirming("Remove", () => `Remove ${chosen.size} with their files`,
			act("remove", id => ask(`jobs/${id}?purge=true`, {method: "DELETE"}))))

	async function unfold(button, jobid) {
		if (!tasks.delete(jobid)) tasks.set(jobid, [])
		button.setAttribute("aria-expanded", tasks.has(jobid))
		await load()
	}
	// The head of each column, what it shows of a job, and its class; wide: not on a narrow screen.
	const columns = [["state", job => state(job.state)],
		["name", job => [job.tasks && el("button", {class: "fold",
			"aria-expanded": String(tasks.has(job.jobid)), "aria-label": "its tasks",
			onclick: event => unfold(event.currentTarget, job.jobid)}),
		el("a", {class: "job", href: jobLink(job.jobid)}, job.name || job.jobid),
		job.application && job.application !== job.name
			? el("span", {class: "quiet"}, ` (${job.application})`) : ""], "name"],
		["id", job => job.jobid, "id wide"], ["backend", job => job.backend, "wide"],
		["progress", job => progress(job, tasks.get(job.jobid))],
		["why", job => job.tasks ? "" : reason(job), "why wide"],
		["changed", job => moment(job.updated), "wide"]]

	const box = (label, jobids) => el("input", {type: "checkbox", "aria-label": label,
		onchange: ({target}) => {
			for (const id of jobids()) target.checked ? chosen.add(id) : chosen.delete(id)
			showChosen()
		}})
	const every = box("Select all shown", () => rows.keys())
	// Those chosen stay so where newer jobs or a filter push them off the page.
	function showChosen() {
		actions.hidden = !chosen.size
		actions.firstChild.textContent = `${chosen.size} selected`
		for (const button of actions.children) button.settle?.()    // it asked about others
		markChosen()
	}
	const markChosen = () => {
		rows.forEach((row, jobid) => { row.querySelector("input").checked = chosen.has(jobid) })
		every.checked = rows.size && [...rows.keys()].every(jobid => chosen.has(jobid))
	}
	function put(job, place) {
		const known = rows.get(job.jobid)
		const row = known || el("tr", {onanimationend: () => row.classList.remove("changed")})
		update(row, row.firstChild || el("td", {}, box(`Select ${job.jobid}`, () => [job.jobid])),
			columns.map(([, shown, kind]) => el("td", {class: kind}, shown(job))))
		if (known && row.dataset.state !== job.state) row.classList.add("changed")
		row.dataset.state = job.state
		rows.set(job.jobid, row)
		if (body.children[place] !== row) body.insertBefore(row, body.children[place] || null)
	}

	// One at a time, so that the answer to an older filter never comes last.
	let loading = Promise.resolve()
	const load = () => {
		loading = loading.then(fetchJobs).then(() => trouble.show(""), error => {
			if (!signal.aborted) trouble.show(error.message)
		})
		return loading
	}
	function asked() {
		const query = new URLSearchParams(filter), name = filter.get("name")
		query.delete("page")
		if (name && !/[*?[]/.test(name)) query.set("name", `*${name}*`)
		if (filter.get("since")) query.set("since", Math.floor(Date.now() / 1000 - filter.get(
			"since")))
		return query
	}
	async function fetchJobs() {
		const begin = PAGE * (page() - 1), query = asked()
		const jobs = await get(`jobs?detail=true&limit=${PAGE}&index=${begin}&${query}`, {signal})
		const found = new Set(jobs.map(job => job.jobid))
		await Promise.all([...tasks.keys()].map(async jobid => {
			const news = found.has(jobid) && await get(`jobs/${part(jobid)}/tasks`, {signal})
			if (!news) tasks.delete(jobid)
			else if (tasks.has(jobid)) tasks.set(jobid, news)   // it may have been folded meanwhile
		}))
		for (const [jobid, row] of rows) if (!found.has(jobid)) {
			row.remove()
			rows.delete(jobid)
		}
		jobs.forEach(put)   // after the removals, so that none moves and loses the focus
		markChosen()
		update(empty, jobs.length ? "" : [...filter].length ? el("p", {}, "No jobs match.") : [
			el("p", {}, "No jobs yet. Type, where psik.py is:"),
			plain("psik.py run -- hostname\npsik.py ls\npsik.py logs -f last"),
			el("p", {}, el("a", {href: "#/new"}, "or make one here"))])
		newer.hidden = begin === 0
		older.hidden = jobs.length < PAGE
		// With a filter the server reads a file of each job to count them.
		if (!filter.get("name") || performance.now() - counted > 30000) await countJobs(query)
		const text = !jobs.length ? "" : newer.hidden && older.hidden ? `${jobs.length} jobs`
			: `${begin + 1}–${begin + jobs.length} of ${Math.max(all, begin + jobs.length)} jobs`
		if (count.textContent !== text) count.textContent = text
		older.hidden ||= begin + jobs.length >= all
	}
	let counted = -Infinity, all = 0    // when, and how many there are on all pages
	async function countJobs(query) {
		query.delete("state")
		const counts = await get(`jobs/counts?${query}`, {signal})
		counted = performance.now()
		STATES.forEach((name, at) => { chips[at].lastChild.textContent = counts[name] || "" })
		all = STATES.includes(filter.get("state")) ? counts[filter.get("state")] : sum(counts)
	}

	view.append(heading("Jobs"),
		el("div", {class: "bar"}, chips),
		el("div", {class: "bar"}, search, backends, pick("Made", "since", Object.entries(periods)),
			count, actions), trouble,
		el("div", {class: "scroll"}, el("table", {}, el("thead", {}, el("tr", {}, el("td", {},
			every), columns.map(([head, , kind]) => el("th", {scope: "col", class: kind}, head)))),
		body)),
		empty, el("div", {class: "bar"}, newer, older))
	// Whatever happens to a job, the list is asked for anew, at most once a second.
	let waiting = null
	function soon(delay_ms) {
		if (waiting && delay_ms >= 1000) return
		clearTimeout(waiting)
		waiting = setTimeout(() => { waiting = null; load() }, delay_ms)
	}
	const clock = setInterval(() => { if (!document.hidden) soon(1000) }, 30000)
	signal.addEventListener("abort", () => { clearInterval(clock); clearTimeout(waiting) })
	await load()
	follow("events", () => soon(1000), text => {
		trouble.show(text)
		if (!text) soon(1000)       // what has happened before the stream began
	}, signal)
	const found = await get("backends", {signal}).catch(() => ({}))
	backends.append(...options(Object.keys(found), filter.get("backend")))
}
