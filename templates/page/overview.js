// When things ran, how long they waited, and why they failed.
import {chart, el, isFinal, span, state, table} from "./dom.js"
import {get, part} from "./api.js"

const median = numbers => numbers.sort((one, other) => one - other)[Math.floor(numbers.length / 2)]
const group = (jobs, key) => jobs.reduce((found, job) => {
	(found[key(job)] ??= []).push(job)
	return found
}, {})

export async function showOverview([query], view, signal) {
	const days = Number(new URLSearchParams(query).get("days")) || 1
	const now = Date.now() / 1000, begin = Math.floor(now - days * 86400)
	const [jobs, backends] = await Promise.all([
		get(`jobs?detail=true&limit=1000&since=${begin}`, {signal}), get("backends", {signal})])
	for (const job of jobs) {
		job.made = Number(job.jobid)
		job.start = job.began ?? (isFinal(job.state) ? job.updated : now)
		job.end = job.start + (job.elapsed || 0)
	}
	const link = (number, text) => el("a", {href: `#/overview?days=${number}`,
		"aria-current": number === days && "page"}, text)
	view.append(el("h1", {}, "Overview"), el("nav", {"aria-label": "Period"}, link(1, "24 hours"),
		link(7, "7 days")), el("p", {class: "quiet"}, `${jobs.length} jobs; grey: waiting`))
	const found = group(jobs, job => job.backend)
	for (const [name, about] of Object.entries(backends)) {
		const own = found[name] || [], ran = own.filter(job => job.began)
		view.append(el("h2", {}, name, el("span", {class: "quiet"}, ` ${about.status}`)),
			about.notes.map(note => el("p", {class: "box wait"}, note)))
		if (!own.length) continue
		view.append(el("p", {}, ran.length ? `${own.length} jobs waited ${span(median(ran.map(
			job => job.start - job.made)))} and ran ${span(median(ran.map(job => job.elapsed)))}, `
			+ "by the median" : `${own.length} jobs`),
		chart(`${own.length} jobs of ${name}, when they waited and ran`, own.slice(0, 100).map(
			job => ({title: `${job.name || job.jobid}: ${job.state}`,
				href: `#/job/${part(job.jobid)}`,
				bars: [[job.made, job.start, "waited"],
					...(job.began ? [[job.start, job.end, job.state]] : [])]})), begin, now))
	}
	const failed = Object.entries(group(jobs.filter(job => job.state === "failed"),
		job => job.reason || `exit ${job.info}`)).sort((one,
			other) => other[1].length - one[1].length)
	if (failed.length) view.append(el("h2", {}, "Failures by cause"), table(["jobs", "cause",
		"the newest"],
		failed.map(([cause, those]) => [those.length, cause, [el("a", {
			href: `#/job/${part(those[0].jobid)}`}, those[0].name || those[0].jobid), " ",
		state("failed")]])))
}
