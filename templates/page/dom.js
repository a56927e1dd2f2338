// Elements, made from data.
//
// What jobs and users have named goes into textContent alone, so no name and no line of a log can
// become markup.

export const maker = create => (tag, attributes, ...children) => {
	const element = create(tag)
	for (const [name, value] of Object.entries(attributes || {})) {
		if (name.startsWith("on")) element.addEventListener(name.slice(2), value)
		else if (name === "value") element.value = value
		else if (value === true) element.setAttribute(name, "")
		else if (value || value === 0) element.setAttribute(name, value)
	}
	element.append(...children.flat(9).filter(child => child || child === 0).map(
		child => child instanceof Node ? child : String(child)))
	return element
}
export const el = maker(tag => document.createElement(tag))

// The heading of a view, which is the window's title too.
export function heading(text) {
	document.title = text === "Jobs" ? "psik" : `${text} · psik`
	return el("h1", {}, text)
}

export const replace = (element, ...children) => element.replaceChildren(...children.flat(9).filter(
	Boolean))

// A shape, a colour and a word: nobody has to tell states by colour.
const SHAPES = {active: "●", queued: "◌", new: "○", failed: "✗", canceled: "⊘", completed: "✓"}
export const STATES = Object.keys(SHAPES)
export const state = name => el("span", {class: "state " + name},
	el("span", {"aria-hidden": "true"}, SHAPES[name] + " "), name)

export const isFinal = name => ["completed", "failed", "canceled"].includes(name)

// Why a job, or a task, is in its state.
export const reason = each => each.reason || (each.state === "failed" ? `exit ${each.info}` : "")

// Seconds as 4.2 s, 0:42, 1:02:03 or 2-03:04:05.
export function span(seconds) {
	if (seconds === null || seconds === undefined) return ""
	if (seconds < 10) return `${seconds.toFixed(1)} s`
	const two = number => String(number).padStart(2, "0")
	const whole = Math.floor(seconds), minutes = Math.floor(whole / 60)
	if (minutes < 60) return `${minutes}:${two(whole % 60)}`
	const hours = Math.floor(minutes / 60), days = Math.floor(hours / 24)
	return `${days ? days + "-" : ""}${two(hours % 24)}:${two(minutes % 60)}:${two(whole % 60)}`
}

// When something was: local, and UTC for who points at it.
export function moment(stamp) {
	const then = new Date(stamp * 1000), age = Date.now() / 1000 - stamp
	const near = age < 60 ? "just now" : age < 3600 ? `${Math.floor(age / 60)} min ago`
		: age < 86400 ? `${Math.floor(age / 3600)} h ago` : then.toLocaleString()
	return el("time", {datetime: then.toISOString(), title: then.toUTCString()}, near)
}

export function bytes(size) {
	for (const unit of ["B", "kB", "MB", "GB", "TB"]) {
		if (size < 1000 || unit === "TB") return `${unit === "B" ? size : size.toFixed(1)} ${unit}`
		size /= 1000
	}
}

// Text as it is, which can be scrolled by the keyboard too.
export const plain = (text, attributes) => el("pre", {tabindex: 0, ...attributes}, text)

// A table whose rows are lists of what their cells hold.
export const table = (heads, rows) => el("div", {class: "scroll"}, el("table", {},
	el("thead", {}, el("tr", {}, heads.map(head => head ? el("th", {scope: "col"},
		head) : el("td")))),
	el("tbody", {}, rows.map(cells => el("tr", {}, cells.map(cell => el("td", {}, cell)))))))

// A word that stays until it was read.
export function say(text) {
	const said = document.getElementById("said")
	if ([...said.children].some(line => line.dataset.text === text)) return
	const line = el("p", {"data-text": text}, text,
		el("button", {onclick: () => line.remove()}, "close"))
	said.append(line)
}

// Asks in place before what cannot be undone: the button becomes the question.
export function confirming(label, question, action) {
	let asked = null
	const settle = () => {
		clearTimeout(asked)
		asked = null
		button.textContent = label
	}
	const button = el("button", {onclick: () => {
		if (asked) {
			settle()
			return action()
		}
		button.textContent = `${typeof question === "string" ? question : question()}? Press again`
		asked = setTimeout(settle, 5000)
	}, onkeydown: event => { if (event.key === "Escape") settle() }}, label)
	return button
}
