// Files up: large ones in parts, so that they go on after a break.
import {ask, sleep} from "./api.js"

export const PIECE = 8 * 1024 * 1024    // bytes of one request
const BREAKS = 100                  // that one part may have

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

// What is at an address: {size} of the whole file, and {part}, the bytes that have come of an
// upload that is not complete; undefined for what there is not.
export async function look(url, signal) {
	const headers = await ask(url, {method: "HEAD", signal}).then(answer => answer.headers,
		error => { if (error.status === 404) return error.headers; throw error })
	const number = name => headers.has(name) ? Number(headers.get(name)) : undefined
	return {size: headers.has("ETag") ? number("Content-Length") : undefined,
		part: number("Upload-Offset")}
}

// Sends a file, from a byte on; onProgress(bytes, what is wrong) is called after each part.
export async function upload(url, file, from, onProgress, signal) {
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
			onProgress(at, error.message)
			await sleep(3, signal)
			const there = await look(url, signal).catch(() => null)
			// Of the last part perhaps only the answer was lost.
			at = !there ? at : there.part ?? (end === there.size ? end : 0)
		}
		onProgress(at)
	}
}
