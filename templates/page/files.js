// The files of a job's work directory: up, down, seen and removed.
import {bytes, confirming, el, moment, plain, replace, say, table} from "./dom.js"
import {ask, get, part, savable} from "./api.js"
import {begun, dropped, upload} from "./upload.js"

const PICTURES = /\.(png|jpe?g|gif|webp)$/i
const HEAD = 65536                  // bytes of a text that are shown
const MOST = 32 * 1024 * 1024       // bytes of a picture that is shown

// A file that is on its way: what has come, and what is asked if some of it came before.
async function sendOne(place, url, path, file, signal) {
	const line = el("span", {role: "status"}), bar = el("progress", {max: file.size || 1, value: 0,
		"aria-label": path})
	const row = el("p", {}, path, " ", bar, " ", line)
	const told = (done, trouble) => {
		bar.value = done
		line.textContent = `${bytes(done)} of ${bytes(file.size)}${trouble ? ": " + trouble : ""}`
	}
	place.append(row)
	try {
		const had = await begun(url)
		const from = had && had < file.size ? await new Promise(choose => replace(line,
			`${bytes(had)} have come before. `,
			el("button", {onclick: () => choose(had)}, "go on there"), " ",
			el("button", {onclick: () => choose(0)}, "begin anew"))) : 0
		await upload(url, file, from, told, signal)
	} catch (error) {
		if (!signal.aborted) say(`${path}: ${error.message}`)
	}
	row.remove()
}

// A place that files are dropped onto; take() gets [path, file] of each.
export function dropping(take, ...children) {
	const place = el("div", {
		ondragover: event => { event.preventDefault(); place.classList.add("drop") },
		ondragleave: () => place.classList.remove("drop"),
		ondrop: async event => {
			event.preventDefault()
			place.classList.remove("drop")
			take(await dropped(event.dataTransfer))
		}}, children)
	return place
}

export async function showFiles(view, job, folder, signal) {
	const top = `jobs/${part(job.jobid)}`, url = `${top}/files/`
	const list = el("div"), coming = el("div")
	const shown = el("div", {id: "preview"})
	const below = name => (folder ? folder + "/" : "") + name
	const at = path => `#/job/${part(job.jobid)}/files/${part(path)}`
	async function send(files) {
		for (const [path, file] of files) {
			await sendOne(coming, url + part(below(path)), path, file, signal)
		}
		if (!signal.aborted) await draw()
	}
	const save = async (path, name) => el("a", {href: await savable(path), download: name}).click()
	async function preview(name, size) {
		const path = url + part(below(name))
		if (PICTURES.test(name) && size <= MOST) {
			const made = URL.createObjectURL(await (await ask(path, {signal})).blob())
			return replace(shown, el("img", {src: made, alt: name,
				onload: () => URL.revokeObjectURL(made)}))
		}
		const head = size ? await (await ask(path, {signal,
			headers: {Range: `bytes=0-${HEAD - 1}`}})).text() : ""
		replace(shown, el("h2", {}, name, size > HEAD ? ", its beginning" : ""), plain(head))
	}
	async function open(name) {
		const answer = await ask(url + part(below(name)), {method: "HEAD", signal})
		const isFolder = answer.headers.get("Content-Type").startsWith("application/json")
		if (isFolder) location.hash = at(below(name))
		else await preview(name, Number(answer.headers.get("Content-Length")))
	}
	const remove = async name => {
		await ask(url + part(below(name)), {method: "DELETE"})
		await draw()
	}
	async function draw() {
		const found = await get(folder ? url + part(folder) : `${top}/files`, {signal})
		replace(list, table(["name", "size", "changed", ""], Object.entries(found).map(
			([name, file]) => [el("button", {onclick: () => open(name)}, name), bytes(file.size),
				moment(file.mtime), [
					el("button", {onclick: () => save(url + part(below(name)), name)}, "download"),
					" ", confirming("remove", "Remove it", () => remove(name))]])),
		Object.keys(found).length ? "" : el("p", {class: "quiet"}, "There are no files."))
	}
	const archive = () => save(`${top}/archive${folder ? `?path=${encodeURIComponent(folder)}`
		: ""}`, `${job.jobid}.tar.gz`)
	const parts = folder.split("/").filter(Boolean)
	view.append(dropping(send, el("div", {class: "bar"},
		el("nav", {"aria-label": "Folders"}, el("a", {href: at("")}, "work"), parts.map(
			(name, place) => [" / ", el("a", {href: at(parts.slice(0, place + 1).join("/"))},
				name)])),
		el("label", {}, "upload ", el("input", {type: "file", multiple: true,
			onchange: event => send([...event.target.files].map(file => [file.name, file]))})),
		el("button", {onclick: archive}, "download all of it"),
		el("span", {class: "quiet"}, "or drop files and folders here")), coming, list, shown))
	await draw()
}
