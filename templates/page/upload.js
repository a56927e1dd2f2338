// Files up: large ones in parts, so that they go on after a break.
import {ask} from "./api.js"

const PIECE = 8 * 1024 * 1024       // bytes of one request
const BREAKS = 100                  // that one part may have

const pause = seconds => new Promise(done => setTimeout(done, 1000 * seconds))

// [path, file] of each file that was dropped, with those in dropped folders.
export async function dropped(transfer) {
	const found = []
	async function walk(entry, above) {
		const path = above + entry.name
		if (entry.isFile) {
			found.push([path, await new Promise((take, refuse) => entry.file(take, refuse))])
			return
		}
		const reader = entry.createReader()
		for (;;) {      // it gives a hundred at a time
			const some = await new Promise((take, refuse) => reader.readEntries(take, refuse))
			if (!some.length) return
			for (const each of some) await walk(each, path + "/")
		}
	}
	// All are taken before the first wait: what was dropped is gone afterwards.
	const entries = [...transfer.items].map(item => item.webkitGetAsEntry()).filter(Boolean)
	for (const entry of entries) await walk(entry, "")
	return found
}

// How many bytes of an upload that is not complete have come.
export async function begun(url) {
	const headers = await ask(url, {method: "HEAD"}).then(answer => answer.headers,
		error => { if (error.status === 404) return error.headers; throw error })
	return Number(headers.get("Upload-Offset"))
}

// Sends a file, from a byte on; told(bytes) is called with what is there.
export async function upload(url, file, from, told, signal) {
	if (file.size <= PIECE) return ask(url, {method: "PUT", body: file, signal})
	for (let at = from, breaks = 0; at < file.size;) {
		const end = Math.min(at + PIECE, file.size)
		try {
			await ask(url, {method: "PUT", body: file.slice(at, end), signal,
				headers: {"Content-Range": `bytes ${at}-${end - 1}/${file.size}`}})
			at = end
			breaks = 0
		} catch (error) {
			// Without an answer, or where an earlier request still writes, it goes on later.
			if (![0, 409, 503].includes(error.status) || ++breaks > BREAKS) throw error
			told(at, error.message)
			await pause(3)
			at = await begun(url).catch(() => at)
		}
		told(at)
	}
}
