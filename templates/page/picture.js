// Pictures of jobs in time, and of the tasks of an array.
//
// Each shape has a title and, where it can, a link; its colour is that of a state.
import {el, instant, jobLink, maker, reason, span, STATES, sum} from "./dom.js"

const svg = maker(tag => document.createElementNS("http://www.w3.org/2000/svg", tag))
const part = (href, title, ...shapes) => svg(href ? "a" : "g", {href, tabindex: href && -1},
	svg("title", {}, title), shapes)

// Bars on one axis of time, rows of {title, href, bars: [[from, to, kind], ...]}.
export function chart(label, rows, begin, end) {
	const at = stamp => Math.min(798, 800 * Math.max(0, stamp - begin) / Math.max(1, end - begin))
	return el("figure", {}, svg("svg", {viewBox: `0 0 800 ${rows.length * 16 + 4}`, role: "group",
		class: "chart", "aria-label": label}, rows.map(({title, href, bars}, line) => part(href,
		title, bars.map(([from, to, kind]) => svg("rect", {x: at(from), y: line * 16 + 2,
			width: Math.max(2, at(to) - at(from)), height: 12, class: kind}))))),
	el("figcaption", {}, instant(begin), instant(end)))
}

// The tasks of an array, a small field each, in their order.
export function strip(tasks, jobid) {
	const shown = [...tasks].sort((one, other) => one.task - other.task).slice(0, 2000)
	const width = 10 * Math.min(50, shown.length), height = 14 * Math.ceil(shown.length / 50)
	return svg("svg", {width, height, viewBox: `0 0 ${width} ${height}`, class: "strip",
		role: "group", "aria-label": `${tasks.length} tasks`}, shown.map((each, place) => part(
		each.jobndx ? jobLink(jobid, "log", `stdout.${each.jobndx}`) : "",
		[`task ${each.task}: ${each.state}`, reason(each)].filter(Boolean).join(", "),
		svg("rect", {x: place % 50 * 10, y: Math.floor(place / 50) * 14, width: 8, height: 12,
			class: each.state}))))
}

// How many tasks are in each state, as one bar.
export function share(counts) {
	const all = sum(counts)
	let x = 0
	return svg("svg", {width: 96, height: 10, class: "strip", role: "img",
		"aria-label": STATES.filter(state => counts[state]).map(
			state => `${counts[state]} ${state}`).join(", ")},
	["completed", "failed", "canceled", "active", "queued", "new"].map(state => {
		const width = 96 * (counts[state] || 0) / all
		x += width
		return width ? svg("rect", {x: x - width, width, height: 10, class: state}) : ""
	}))
}

// How long jobs waited against how long they ran, {title, href, waited, ran, state} each.
export function scatter(label, jobs) {
	const most = Math.max(60, ...jobs.flatMap(job => [job.waited, job.ran]))
	const at = seconds => 200 * Math.log1p(seconds) / Math.log1p(most)
	const ticks = [[1, "1 s"], [60, "1 min"], [3600, "1 h"], [86400, "1 d"]].filter(
		([seconds]) => seconds <= most)
	return svg("svg", {viewBox: "0 0 300 250", role: "group", class: "scatter",
		"aria-label": label},
	svg("path", {d: "M50 4 V220 H270"}),
	ticks.map(([seconds, text]) => [
		svg("text", {x: 50 + at(seconds), y: 234, "text-anchor": "middle"}, text),
		svg("text", {x: 46, y: 224 - at(seconds), "text-anchor": "end"}, text)]),
	svg("text", {x: 270, y: 248, "text-anchor": "end"}, "waited →"),
	svg("text", {x: 56, y: 12}, "ran ↑"),
	jobs.map(job => part(job.href, `${job.title}: waited ${span(job.waited)}, ran ${
		span(job.ran)}`, svg("circle", {cx: 50 + at(job.waited), cy: 220 - at(job.ran), r: 4,
		class: job.state}))))
}
