// The server, by its public routes.
//
// A token stands behind the # of the address that `open` and `serve --token` print; browsers send
// that to nobody.  It is kept for this tab alone, and leaves the address.

export function takeToken() {
	const given = new URLSearchParams(location.hash.replace(/^#\/?/, "")).get("token")
	if (!given) return
	sessionStorage.setItem("token", given)
	history.replaceState(null, "", location.pathname + "#/")
}
export const token = () => sessionStorage.getItem("token")

// The page is shown at / and at /v1, and a proxy may put a path before both.
export const base = location.pathname.replace(/(\/v1)?\/?$/, "/v1/")

export class Failure extends Error {
	constructor(status, detail, body, headers = new Headers()) {
		const faults = Array.isArray(detail) ? detail : []
		super(faults.length ? faults.map(fault => `${fault.loc.slice(1).join(".")}: ${fault.msg}`)
			.join("; ") : detail)
		this.status = status
		this.faults = faults
		this.body = body
		this.headers = headers
	}
}

export async function ask(path, options = {}) {
	const headers = {...options.headers}
	if (token()) headers.Authorization = `Bearer ${token()}`
	let answer
	try {
		answer = await fetch(base + path, {cache: "no-cache", ...options, headers})
	} catch (error) {
		if (error.name === "AbortError") throw error
		throw new Failure(0, "the server does not answer; is the tunnel still open?")
	}
	if (answer.ok) return answer
	const body = await answer.json().catch(() => ({detail: answer.statusText}))
	throw new Failure(answer.status, body.detail || answer.statusText, body, answer.headers)
}

export const get = (path, options) => ask(path, options).then(answer => answer.json())
export const post = (path, body) => ask(path, {
	method: "POST", ...(body === undefined ? {} : {
		body: JSON.stringify(body), headers: {"Content-Type": "application/json"}})
}).then(answer => answer.json())
// The address under which the browser saves what is at a path: it sends no token there, so with one
// it gets a ticket for this path.
export async function savable(path) {
	if (!token()) return base + path
	const url = decodeURIComponent(`/v1/${path.split("?")[0]}`)
	const ticket = await (await ask(`token?path=${encodeURIComponent(url)}`)).text()
	return `${base}${path}${path.includes("?") ? "&" : "?"}ticket=${ticket}`
}
// A line for curl; the token is left to who types it.
export const curl = (method, path, ...words) => ["curl", method === "GET" ? "" : `-X ${method}`,
	token() ? '-H "Authorization: Bearer $TOKEN"' : "", ...words,
	`'${location.origin}${base.replace(/\/v1\/$/, "")}${path}'`].filter(Boolean).join(" ")
export const part = name => name.split("/").map(encodeURIComponent).join("/")

async function* events(path, last, signal) {
	const answer = await ask(path, {signal, headers: last.id ? {"Last-Event-ID": last.id} : {}})
	last.told("")
	last.over = answer.status === 204
	if (last.over) return
	const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader()
	for (let text = "";;) {
		const {value, done} = await reader.read()
		if (done) return
		text += value
		const whole = text.split("\n\n")
		text = whole.pop()
		for (const block of whole) {
			const fields = Object.fromEntries(block.split("\n").filter(line => !line.startsWith(
				":"))
				.map(line => [line.split(":")[0], line.slice(line.indexOf(":") + 1).trim()]))
			if (fields.id) last.id = fields.id
			if (fields.data) yield JSON.parse(fields.data)
		}
	}
}

// Hands over each event until there will be no more (204), comes again when the connection breaks,
// and says whether there is one.  EventSource cannot send a token, so it is read by fetch.
export async function follow(path, take, signal, told = () => {}) {
	const last = {told}
	for (let pause = 1; !signal.aborted && !last.over; pause = Math.min(2 * pause, 30)) {
		try {
			for await (const event of events(path, last, signal)) {
				pause = 1
				take(event)
			}
			if (last.over) return
		} catch (error) {
			if (signal.aborted) return
			told(error.status === 401 ? "the token is no longer valid: open the page's address anew"
				: error.status === 404 ? "" : String(error.message))
			if ([401, 403, 404].includes(error.status)) return
		}
		await new Promise(done => setTimeout(done, 1000 * pause))
	}
}
