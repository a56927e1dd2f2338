// Elements, made from data.
//
// What jobs and users have named goes into textContent alone, so no name and no line of a log can
// become markup.

import {part} from "./api.js"

// What there is of children in lists of lists: without "", false and null.
const listed = children => children.flat(9).filter(child => child || child === 0)

export const maker = create => (tag, attributes = {}, ...children) => {
	const element = create(tag)
	for (const [name, value] of Object.entries(attributes)) {
		if (name.startsWith("on")) element.addEventListener(name.slice(2), value)
		else if (name === "value") element.value = value
		else if (value || value === 0) element.setAttribute(name, value === true ? "" : value)
	}
	element.append(...listed(children))
	return element
}
export const el = maker(tag => document.createElement(tag))

// The heading of a view, which is the window's title too.
export function heading(text) {
	document.title = text === "Jobs" ? "psik" : `${text} · psik`
	return el("h1", {}, text)
}

// Where a job is shown, or a part of it.
export const jobLink = (jobid, ...rest) => ["#/job", part(jobid), ...rest].join("/")

export const replace = (element, ...children) => element.replaceChildren(...listed(children))

// As replace(), but what is equal stays, however deep, with the focus that it may have.
export function update(element, ...children) {
	const wanted = listed(children)
	wanted.forEach((child, place) => {
		const old = element.childNodes[place]
		if (!old) element.append(child)
		else if (old.isEqualNode(child)) return
		else if (old.cloneNode().isEqualNode(child.cloneNode()) && old.firstChild) {
			update(old, ...child.childNodes)
		} else old.replaceWith(child)
	})
	while (element.childNodes.length > wanted.length) element.lastChild.remove()
}

// A box for what is wrong for now: show(text), and "" when it is over.
export function alertBox() {
	const box = el("p", {class: "box", role: "alert", hidden: true})
	box.show = text => { box.textContent = text; box.hidden = !text }
	return box
}

export const sum = counts => Object.values(counts).reduce((all, count) => all + count, 0)

// A shape, a colour and a word: nobody has to tell states by colour.
const SHAPES = {active: "●", queued: "◌", new: "○", failed: "✗", canceled: "⊘", completed: "✓"}
export const STATES = Object.keys(SHAPES)
export const state = name => el("span", {class: "state " + name},
	el("span", {"aria-hidden": "true"}, SHAPES[name] + " "), name)

export const isFinal = name => ["completed", "failed", "canceled"].includes(name)

// Why a job, or a task, is in its state.
export const reason = each => each.reason || (each.state === "failed" ? `exit ${each.info}` : "")

// Seconds as 4.2 s, 0:42, 01:02:03 or 2-03:04:05.
export function span(seconds) {
	if (seconds === null || seconds === undefined) return ""
	if (seconds < 10) return `${seconds.toFixed(1)} s`
	const days = Math.floor(seconds / 86400)
	const clock = new Date(seconds % 86400 * 1000).toISOString().slice(11, 19)
	return seconds < 3600 ? clock.slice(3).replace(/^0/, "") : (days ? days + "-" : "") + clock
}

// When something was, local, as `ls` shows it.  The first toLocaleString() of a tab takes 30 ms.
function dated(stamp) {
	const east_min = -new Date(stamp * 1000).getTimezoneOffset()
	return new Date((stamp + east_min * 60) * 1000).toISOString().slice(0, 19).replace("T", " ")
}

// A time, with UTC for who points at it.
export function instant(stamp, text = dated(stamp)) {
	const then = new Date(stamp * 1000)
	return el("time", {datetime: then.toISOString(), title: then.toUTCString()}, text)
}

// The same; if it is near, as how long ago it was.
export function moment(stamp) {
	const age = Date.now() / 1000 - stamp
	return instant(stamp, age < 60 ? "just now" : age < 3600 ? `${Math.floor(age / 60)} min ago`
		: age < 86400 ? `${Math.floor(age / 3600)} h ago` : dated(stamp))
}

export function bytes(size) {
	for (const unit of ["B", "kB", "MB", "GB", "TB"]) {
		if (size < 1000 || unit === "TB") return `${unit === "B" ? size : size.toFixed(1)} ${unit}`
		size /= 1000
	}
}

// Text as it is, which can be scrolled by the keyboard too.
export const plain = (text, attributes) => el("pre", {tabindex: 0, ...attributes}, text)

// Options of a select: [value, text] each, or a value that is its text.
export const options = (pairs, chosen) => pairs.map(pair => {
	const [value, text = value] = [pair].flat()
	return el("option", {value, selected: value === chosen}, text)
})

// A table whose rows are lists of what their cells hold.
export const table = (heads, rows) => el("div", {class: "scroll"}, el("table", {},
	el("thead", {}, el("tr", {}, heads.map(head => head ? el("th", {scope: "col"},
		head) : el("td")))),
	el("tbody", {}, rows.map(cells => el("tr", {}, cells.map(cell => el("td", {}, cell)))))))

// A message that stays until it is closed.
export function say(text) {
	const said = document.getElementById("said")
	if ([...said.children].some(line => line.firstChild.data === text)) return
	const line = el("p", {}, text, el("button", {onclick: () => line.remove()}, "close"))
	said.append(line)
}

// Asks in place before what cannot be undone: the button becomes the question.  settle() withdraws
// it; a second click that comes at once is none that has read it.
export function confirming(label, question, action, attributes) {
	let asked = 0, timer = null
	const button = el("button", {"aria-live": "polite", ...attributes, onclick: () => {
		if (button.textContent === label) {
			asked = performance.now()
			button.textContent = `${question()}? Press again`
			timer = setTimeout(button.settle, 30000)
		} else if (performance.now() - asked > 400) {
			button.settle()
			action()
		}
	}, onblur: () => button.settle(), onkeydown: event => {
		if (event.key === "Escape") button.settle()
		if (event.key === "Enter" && event.repeat) event.preventDefault()
	}}, label)
	button.settle = () => {
		clearTimeout(timer)
		button.textContent = label
	}
	return button
}
