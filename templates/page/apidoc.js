// The routes, as openapi.json describes them, each with a line for curl.
import {el, heading, plain, table} from "./dom.js"
import {curl, get} from "./api.js"

function showRoute(method, path, about) {
	const media = Object.keys(about.requestBody?.content || {})[0]
	const body = media === "application/json" ? ["--json '{}'"] : media ? ["--data-binary @FILE"]
		: []
	return el("details", {}, el("summary", {}, el("code", {}, `${method} ${path}`), " ",
		about.summary), about.description ? el("p", {}, about.description) : "",
	about.parameters.length ? table(["parameter", "in", ""], about.parameters.map(
		each => [el("code", {}, each.name), each.in, each.description || ""])) : "",
	plain(curl(method, path, ...body)))
}

export async function show(_, view, signal) {
	const found = await get("openapi.json", {signal})
	view.append(heading("API"), el("p", {}, "Full description: ", el("code", {},
		"/v1/openapi.json")))
	for (const tag of found.tags) {
		view.append(el("h2", {}, tag.description), ...Object.entries(found.paths).flatMap(
			([path, methods]) => Object.entries(methods)
				.filter(([, about]) => about.tags.includes(tag.name))
				.map(([method, about]) => showRoute(method.toUpperCase(), path, about))))
	}
}
