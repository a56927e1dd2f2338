// The files of a job's work directory: up, down, seen and removed.
import {bytes, confirming, el, jobLink, moment, plain, replace, say, table, update} from "./dom.js"
import {ask, downloadUrl, get, getRange, part} from "./api.js"
import {dropped, look, PIECE, upload} from "./upload.js"

const PICTURES = /\.(png|jpe?g|gif|webp)$/i
const HEAD = 65536                  // bytes of a text that are shown
const MOST = 32 * 1024 * 1024       // bytes of a picture that is shown

// Asks, where an element is, with a button for each of the answers {label: value}.
const choice = (element, question, answers) => new Promise(choose => replace(element, question,
	Object.entries(answers).map(([label, value]) => [" ",
		el("button", {onclick: () => choose(value)}, label)])))

// A file that is on its way: what has come, and what is asked if some of it came before.
async function sendOne(place, url, path, file, signal) {
	const line = el("span", {role: "status"}), bar = el("progress", {max: file.size || 1, value: 0,
		"aria-label": path})
	const row = el("p", {}, path, " ", bar, " ", line)
	const onProgress = (done, trouble) => {
		bar.value = done
		line.textContent = `${bytes(done)} of ${bytes(file.size)}${trouble ? ": " + trouble : ""}`
	}
	place.append(row)
	try {
		const had = file.size > PIECE && (await look(url, signal)).part
		const from = had && had < file.size ? await choice(line,
			`${bytes(had)} have come before.`, {"go on there": had, "begin anew": 0}) : 0
		await upload(url, file, from, onProgress, signal)
	} catch (error) {
		if (!signal.aborted) say(`${path}: ${error.message}`)
	}
	row.remove()
}

// A place for files: chosen there, or dropped onto it; onFiles() gets [path, file] of each.
export function filePlace(label, id, onFiles, ...children) {
	const chosen = event => {
		onFiles([...event.target.files].map(file => [file.name, file]))
		event.target.value = ""
	}
	const place = el("div", {
		ondragover: event => { event.preventDefault(); place.classList.add("drop") },
		ondragleave: () => place.classList.remove("drop"),
		ondrop: async event => {
			event.preventDefault()
			place.classList.remove("drop")
			onFiles(await dropped(event.dataTransfer))
		}}, el("div", {class: "bar"}, el("label", {for: id}, label), el("input", {type: "file", id,
		multiple: true, onchange: chosen}), el("span", {class: "quiet"},
		"or drop files and folders here")), children)
	return place
}

export async function showFiles(view, job, folder, signal) {
	const top = `jobs/${part(job.jobid)}`, url = `${top}/files/`
	const list = el("div"), coming = el("div")
	const shown = el("div", {id: "preview"})
	const below = name => (folder ? folder + "/" : "") + name
	const address = name => url + part(below(name))
	const listed = () => get(folder ? url + part(folder) : `${top}/files`, {signal})
	const at = path => jobLink(job.jobid, "files", part(path))
	async function send(files) {
		const known = [], names = await listed()
		for (const [path] of files) if (Object.hasOwn(names, path.split("/")[0])) {
			const {size} = await look(address(path), signal).catch(() => ({}))
			if (size !== undefined) known.push(path)
		}
		const question = coming.appendChild(el("p", {role: "alert"}))
		const keep = known.length && await choice(question,
			`There already: ${known.join(", ")}.`, {replace: false, "keep as they are": true})
		question.remove()
		for (const [path, file] of files) {
			if (keep && known.includes(path)) continue
			await sendOne(coming, address(path), path, file, signal)
		}
		if (!signal.aborted) await draw()
	}
	const save = async (path, name) => el("a", {href: await downloadUrl(path),
		download: name}).click()
	async function picture(path, name) {
		const made = URL.createObjectURL(await (await ask(path, {signal})).blob())
		const done = () => URL.revokeObjectURL(made)
		return el("img", {src: made, alt: name, onload: done, onerror: done})
	}
	const beginning = async (path, size) => plain(new TextDecoder().decode(
		await getRange(path, 0, Math.min(size, HEAD), signal)))
	let wanted = null       // the name of the file that is to be shown
	async function preview(name, size) {
		wanted = name
		const path = address(name), isPicture = PICTURES.test(name) && size <= MOST
		const content = await (isPicture ? picture(path, name) : beginning(path, size))
		if (wanted === name) replace(shown, el("h2", {}, name, !isPicture && size > HEAD
			? ", its beginning" : ""), content)
	}
	async function open(name) {
		const answer = await ask(address(name), {method: "HEAD", signal})
		const isFolder = answer.headers.get("Content-Type").startsWith("application/json")
		if (isFolder) location.hash = at(below(name))
		else await preview(name, Number(answer.headers.get("Content-Length")))
	}
	const remove = async name => {
		await ask(address(name), {method: "DELETE"})
		await draw()
	}
	async function draw() {
		const found = await listed()
		update(list, table(["name", "size", "changed", ""], Object.entries(found).map(
			([name, file]) => [el("button", {title: name, onclick: () => open(name)}, name),
				bytes(file.size), moment(file.mtime), [
					el("button", {title: name, onclick: () => save(address(name), name)},
						"download"), " ",
					confirming("remove", () => "Remove it", () => remove(name),
						{title: name})]])),
		Object.keys(found).length ? "" : el("p", {class: "quiet"}, "There are no files."))
	}
	const archive = () => save(`${top}/archive${folder ? `?path=${encodeURIComponent(folder)}`
		: ""}`, `${job.jobid}.tar.gz`)
	const parts = folder.split("/").filter(Boolean)
	view.append(el("div", {class: "bar"}, el("nav", {"aria-label": "Folders"},
		el("a", {href: at("")}, "work"), parts.map((name, place) => [" / ",
			el("a", {href: at(parts.slice(0, place + 1).join("/"))}, name)])),
	el("button", {onclick: archive}, "download all of it")),
	filePlace("upload", "upload", send, coming, list, shown))
	await draw()
}
