// The addresses behind the #, and what is shown there.
//
// Each view is a module whose show() gets the rest of the address, the element to fill, and a
// signal that says that another view is shown.  It is loaded when it is first shown.
import {el, replace, say} from "./dom.js"
import {get, takeToken} from "./api.js"

const VIEWS = [[/^#\/job\/([^/]+)(?:\/(.*))?$/, "job"], [/^#\/new(?:\?(.*))?$/, "new"],
	[/^#\/overview(?:\?(.*))?$/, "overview"], [/^#\/api$/, "apidoc"],
	[/^#?\/?(?:\?(.*))?$/, "list"]]
const KEYS = {j: "next row", k: "previous row", Enter: "open the row", x: "select the row",
	"/": "filter", n: "new job", g: "jobs", "?": "this list", Escape: "leave the field, or close"}

let shown = null

async function show() {
	takeToken()
	shown?.abort()
	if (shown) document.getElementById("view").focus()     // costs a layout, so not at first
	shown = new AbortController()
	const {signal} = shown, view = document.getElementById("view")
	const [pattern, name] = VIEWS.find(([pattern]) => pattern.test(location.hash)) || VIEWS.at(-1)
	document.querySelectorAll("header nav a").forEach(link => {
		const is = link.hash === location.hash.split("?")[0] || (name === "list"
			&& link.hash === "#/")
		is ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current")
	})
	document.title = "psik"
	replace(view)
	try {
		const module = await import(`./${name}.js`)
		if (!signal.aborted) await module.show((location.hash.match(pattern) || []).slice(1), view,
			signal)
	} catch (error) {
		if (!signal.aborted) view.append(el("p", {class: "box", role: "alert"}, error.message))
	}
}

function move(step) {
	const links = [...document.querySelectorAll("main tbody a.job")]
	const at = links.indexOf(document.activeElement)
	links[Math.max(0, Math.min(links.length - 1, at + step))]?.focus()
}

const keys = document.getElementById("keys")
document.addEventListener("keydown", event => {
	const typing = event.target.closest("form, textarea, select, input:not([type=checkbox])")
	if (event.key === "Escape" && typing) return event.target.blur()
	if (typing || keys.open || event.ctrlKey || event.metaKey || event.altKey) return
	if (event.key !== "?" && localStorage.getItem("keys") === "off") return
	const acts = {
		j: () => move(1), k: () => move(-1), n: () => { location.hash = "#/new" },
		g: () => { location.hash = "#/" }, "?": () => keys.showModal(),
		x: () => document.activeElement.closest("tr")?.querySelector("[type=checkbox]")?.click(),
		"/": () => document.querySelector("main [type=search]")?.focus()}
	if (acts[event.key]) {
		event.preventDefault()
		acts[event.key]()
	}
})
replace(keys, el("dl", {}, Object.entries(KEYS).map(([key, what]) => el("div", {},
	el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)))),
el("form", {method: "dialog"}, el("label", {}, el("input", {type: "checkbox",
	checked: localStorage.getItem("keys") !== "off", onchange: event => localStorage.setItem("keys",
		event.target.checked ? "on" : "off")}), " letters act"), " ", el("button", {}, "close")))

async function health() {
	const line = document.getElementById("health")
	const said = await get("health").catch(error => error.body?.backends ? error.body
		: {backends: {}, status: error.message})
	const text = Object.entries(said.backends).map(([name, how]) => `${name} ${how}`).concat(
		said.status === "ok" ? [] : said.status).join(" · ")
	if (line.textContent !== text) line.textContent = text
	setTimeout(health, 30000)
}

addEventListener("hashchange", show)
addEventListener("unhandledrejection", event => {
	event.preventDefault()
	if (event.reason?.name !== "AbortError") say(String(event.reason?.message || event.reason))
})
show()
setTimeout(health, 500)     // the view goes first
