// The routes, as openapi.json describes them, each with a line for curl.
import {el, plain, table} from "./dom.js"
import {base, get} from "./api.js"

export async function showApi(_, view, signal) {
	const found = await get("openapi.json", {signal})
	const url = path => location.origin + base.replace(/\/v1\/$/, "") + path
	view.append(el("h1", {}, "API"), el("p", {}, "The whole of it is ", el("code", {},
		url("/v1/openapi.json")), "."))
	for (const tag of found.tags) {
		const operations = Object.entries(found.paths).flatMap(([path,
			methods]) => Object.entries(methods)
			.filter(([, about]) => about.tags.includes(tag.name)).map(([method, about]) => [method,
				path, about]))
		view.append(el("h2", {}, tag.description))
		for (const [method, path, about] of operations) {
			const media = Object.keys(about.requestBody?.content || {})[0]
			const curl = ["curl", method === "get" ? "" : `-X ${method.toUpperCase()}`,
				media === "application/json" ? "--json '{}'" : media ? "--data-binary @FILE" : "",
					url(path)]
			view.append(el("details", {}, el("summary", {}, el("code", {},
				`${method.toUpperCase()} ${path}`), " ",
				about.summary), about.description ? el("p", {}, about.description) : "",
			about.parameters.length ? table(["parameter", "in", ""], about.parameters.map(
				each => [el("code", {}, each.name), each.in, each.description || ""])) : "",
			plain(curl.filter(Boolean).join(" "))))
		}
	}
}
