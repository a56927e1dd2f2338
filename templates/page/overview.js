// When things ran, how long they waited, and why they failed.
import {el, heading, isFinal, jobLink, moment, reason, span, state, table} from "./dom.js"
import {get, part} from "./api.js"
import {chart, scatter} from "./picture.js"

const MOST = 1000       // jobs that are asked for
const DRAWN = 100       // of them, those of one backend that get a bar

const median = numbers => numbers.sort((one, other) => one - other)[Math.floor(numbers.length / 2)]
function group(jobs, key) {
	const found = new Map()
	for (const job of jobs) {
		if (!found.has(key(job))) found.set(key(job), [])
		found.get(key(job)).push(job)
	}
	return found
}

// A job with what the pictures show of it.
function drawn(job, now) {
	const made = Number(job.jobid), ran = job.elapsed || 0
	const start = Math.max(made, job.began ?? (isFinal(job.state) ? job.updated : now))
	return {...job, title: `${job.name || job.jobid}: ${job.state}`, href: jobLink(job.jobid),
		waited: start - made, ran, bars: [[made, start, "waited"],
			...(job.began ? [[start, start + ran, job.state]] : [])]}
}

function showWaits(view, ran) {
	if (!ran.length) return
	const typical = key => span(median(ran.map(job => job[key])))
	view.append(el("h2", {}, "Queue time against run time"), el("p", {},
		`By the median, a job waited ${typical("waited")} and ran ${typical("ran")}.`),
	scatter(`${ran.length} jobs: how long they waited and ran`, ran))
}

function showFailures(view, jobs) {
	const cause = job => job.tasks ? "tasks of an array failed" : reason(job)
	const causes = [...group(jobs.filter(job => job.state === "failed"), cause)].sort(
		(one, other) => other[1].length - one[1].length)
	if (!causes.length) return
	view.append(el("h2", {}, "Failures by cause"), table(["jobs", "", "cause", "the newest"],
		causes.map(([cause, those]) => [those.length, el("progress", {max: causes[0][1].length,
			value: those.length, "aria-hidden": "true"}), cause, [el("a", {href: those[0].href},
			those[0].name || those[0].jobid), " ", state("failed")]])))
}

// One backend: its health, what its scheduler said last, its queues, and when its jobs ran.
async function showBackend(view, name, about, jobs, begin, now, signal) {
	const queues = el("div")
	view.append(el("h2", {}, name, el("span", {class: "quiet"}, ` ${about.status}`)),
		about.answered ? el("p", {class: "quiet"}, `Its scheduler ${about.status === "degraded"
			? "was asked" : "answered"} `, moment(about.answered), ".") : "",
		about.notes.map(note => el("p", {class: "box wait"}, note)), queues)
	if (jobs.length) view.append(el("p", {}, `${jobs.length} jobs${jobs.length > DRAWN
		? `, of which the newest ${DRAWN} are drawn` : ""}`),
	chart(`Jobs of ${name}, when they waited and ran`, jobs.slice(0, DRAWN), begin, now))
	const found = await get(`backends/${part(name)}/queues`, {signal}).catch(error => {
		if (error.status !== 404) queues.append(el("p", {class: "box wait"}, error.message))
		return []
	})
	const free = (some, all) => all === null ? "" : `${some ?? "?"} of ${all}`
	if (found.length) queues.append(table(["queue", "state", "free nodes", "free cores",
		"longest walltime"], found.map(queue => [el("a", {
		href: `#/new?backend=${part(name)}&queue=${part(queue.name)}`}, queue.name), queue.state,
	free(queue.free_nodes, queue.nodes), free(queue.free_cores, queue.cores),
	queue.max_walltime_min === null ? "" : span(60 * queue.max_walltime_min)])))
}

export async function show([query], view, signal) {
	const days = Number(new URLSearchParams(query).get("days")) || 1
	const now = Date.now() / 1000, begin = Math.floor(now - days * 86400)
	const [found, backends] = await Promise.all([
		get(`jobs?detail=true&limit=${MOST}&since=${begin}`, {signal}), get("backends", {signal})])
	const jobs = found.map(job => drawn(job, now)), own = group(jobs, job => job.backend)
	const link = (number, text) => el("a", {href: `#/overview?days=${number}`,
		"aria-current": number === days && "page"}, text)
	view.append(heading("Overview"), el("nav", {"aria-label": "Period"}, link(1, "24 hours"),
		link(7, "7 days")), el("p", {class: "quiet"}, `${jobs.length < MOST ? "" : "The newest "}${
		jobs.length} jobs. Grey: waiting.`))
	const sides = view.appendChild(el("div", {class: "sides"}, el("section"), el("section")))
	showWaits(sides.firstChild, jobs.filter(job => job.began))
	showFailures(sides.lastChild, jobs)
	await Promise.all(Object.entries(backends).map(([name, about]) => showBackend(
		view.appendChild(el("section")), name, about, own.get(name) || [], begin, now, signal)))
}
