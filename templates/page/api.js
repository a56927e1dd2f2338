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
const token = () => sessionStorage.getItem("token")

// The page is shown at / and at /v1, and a proxy may put a path before both.
const base = location.pathname.replace(/(\/v1)?\/?$/, "/v1/")

// What is wrong with a field, as a refused request tells it.
export const faultText = fault => `${fault.loc.slice(1).join(".")} ${fault.msg}`.trim()

class Failure extends Error {
	constructor(status, detail, body, headers = new Headers()) {
		super(Array.isArray(detail) ? detail.map(faultText).join("; ") : detail)
		Object.assign(this, {status, body, headers, faults: Array.isArray(detail) ? detail : []})
	}
	// Whether the same request would be refused again.
	get isRefusal() {
		return [401, 403, 404].includes(this.status)
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
	const body = await answer.json().catch(() => ({}))
	if (answer.status === 401 && token()) body.detail = "the token is no longer valid: open the "
		+ "address that the server printed again"
	throw new Failure(answer.status, body.detail || `HTTP status ${answer.status}`, body,
		answer.headers)
}

export const get = (path, options) => ask(path, options).then(answer => answer.json())
export const send = (method, path, body, headers = {}) => ask(path, {
	method, ...(body === undefined || body instanceof FormData ? {body, headers} : {
		body: JSON.stringify(body), headers: {"Content-Type": "application/json", ...headers}})
}).then(answer => answer.json())
export const post = (path, body) => send("POST", path, body)

// Makes a job of a spec, or of a form.  The server makes one of all that come with the same key.
export const newKey = () => crypto.getRandomValues(new Uint32Array(4)).join("-")
export const make = (path, key, given) => send("POST", path, given, {"Idempotency-Key": key})
export const part = name => name.split("/").map(encodeURIComponent).join("/")
export const sleep = (seconds, signal) => new Promise(done => {
	const end = () => {
		clearTimeout(timer)
		signal.removeEventListener("abort", end)
		done()
	}
	const timer = setTimeout(end, 1000 * seconds)
	signal.addEventListener("abort", end)
	if (signal.aborted) end()
})

// The bytes of a file from one on, and before another.  Not from the browser's cache, which of a
// file that has grown asks for the whole.
export async function getRange(path, from, to, signal) {
	if (to <= from) return new Uint8Array()
	const answer = await ask(path, {signal, cache: "no-store",
		headers: {Range: `bytes=${from}-${to - 1}`}})
	const found = new Uint8Array(await answer.arrayBuffer())
	return answer.status === 206 ? found : found.subarray(from, to)
}

// The address under which the browser saves what is at a path: it sends no token there, so with one
// it gets a ticket for this path.
export async function downloadUrl(path) {
	if (!token()) return base + path
	const url = decodeURIComponent(`/v1/${path.split("?")[0]}`)
	const ticket = await (await ask(`token?path=${encodeURIComponent(url)}`)).text()
	return `${base}${path}${path.includes("?") ? "&" : "?"}ticket=${ticket}`
}

// A word as a shell reads it, and a line for curl; the token is left to who types it.
export const quoted = word => /^[\w@%+=:,./-]+$/.test(word) ? word
	: `'${word.replaceAll("'", "'\\''")}'`
export const curl = (method, path, ...words) => ["curl", method === "GET" ? "" : `-X ${method}`,
	token() ? '-H "Authorization: Bearer $TOKEN"' : "", ...words,
	(location.origin + base.replace(/\/v1\/$/, "") + path).split("$JOB").map(quoted).join("$JOB")
].filter(Boolean).join(" ")

// Calls onEvent for each event of one connection; `last` keeps its id, for the next connection.
async function read(answer, last, onEvent) {
	const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader()
	for (let text = "";;) {
		const {value, done} = await reader.read()
		if (done) return
		const blocks = (text + value).split("\n\n")
		text = blocks.pop()
		for (const block of blocks) {
			last.id = block.match(/^id: *(.+)/m)?.[1] ?? last.id
			if (/^data:/m.test(block)) onEvent()
		}
	}
}

// Waits until the tab is hidden, or is seen, or one of these signals is aborted.
const tabIs = (hidden, ...signals) => new Promise(done => {
	const check = () => {
		if (document.hidden !== hidden && !signals.some(signal => signal.aborted)) return
		document.removeEventListener("visibilitychange", check)
		for (const signal of signals) signal.removeEventListener("abort", check)
		done()
	}
	document.addEventListener("visibilitychange", check)
	for (const signal of signals) signal.addEventListener("abort", check)
	check()
})

// Calls onEvent for each event until there will be no more (204), comes again when the connection
// breaks, and calls onStatus("") when it stands, and with what is wrong when it does not.  A tab
// that is hidden has no connection.  EventSource cannot send a token, so it is read by fetch.
export async function follow(path, onEvent, onStatus, signal) {
	const last = {}
	for (let pause = 1; !signal.aborted; pause = Math.min(2 * pause, 30)) {
		await tabIs(false, signal)
		const connection = new AbortController()
		tabIs(true, signal, connection.signal).then(() => connection.abort())
		try {
			const answer = await ask(path, {signal: connection.signal,
				headers: last.id ? {"Last-Event-ID": last.id} : {}})
			if (answer.status === 204) return
			pause = 1
			onStatus("")
			await read(answer, last, onEvent)
		} catch (error) {
			if (signal.aborted) return
			if (connection.signal.aborted) pause = 0.5
			else onStatus(String(error.message))
			if (error.isRefusal) return
		} finally {
			connection.abort()
		}
		await sleep(pause, signal)
	}
}
