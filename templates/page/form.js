// Fields made from a JSON Schema, with the server's names, types and texts.
import {el} from "./dom.js"

const kinds = schema => (schema.anyOf ? schema.anyOf.flatMap(kinds) : [schema.type].flat())
	.filter(Boolean)
const alone = schema => (schema.anyOf || [schema]).find(each => each.type !== "null") || schema

// One field: its label, its input, what it means, and room for what is wrong with it.
function field(name, schema, value, required) {
	const types = kinds(schema), one = alone(schema), id = `field-${name}`
	const given = value ?? schema.default
	let input
	if (schema.enum || one.enum) {
		input = el("select", {id}, el("option", {value: ""}, ""), (schema.enum || one.enum)
			.map(each => el(
			"option", {value: JSON.stringify(each), selected: each === given}, String(each))))
	} else if (one.contentEncoding) {
		input = el("input", {id, type: "file"})
	} else if (types.length && types.every(type => type === "boolean" || type === "null")) {
		// With a default it is on or off; without one it may also be left out.
		input = given === undefined ? el("select", {id}, ["", "true", "false"].map(each => el(
			"option", {value: each}, each))) : el("input", {id, type: "checkbox", checked: given})
	} else if (["integer", "number"].includes(one.type) && types.every(type => type !== "string")) {
		input = el("input", {id, type: "number", min: one.minimum, max: one.maximum,
			step: one.type === "integer" ? 1 : "any", value: given ?? ""})
	} else {
		const text = given === undefined || given === null ? "" : typeof given === "string" ? given
			: JSON.stringify(given)
		input = name === "script" ? el("textarea", {id, value: text, spellcheck: "false"})
			: el("input", {id, type: "text", value: text, placeholder: one.type === "object" ? "{}"
				: one.type === "array" ? "[]" : ""})
	}
	const fault = el("span", {class: "fault", role: "alert", "data-fault": name,
		id: `fault-${name}`})
	input.setAttribute("aria-describedby", `fault-${name}`)
	return el("div", {class: "field"}, el("label", {for: id}, schema.title || name,
		required ? " (needed)" : ""), input,
		el("small", {}, schema.description || ""), fault)
}

// What a field holds, of an input that is a file the File; undefined if nothing.
function valueOf(input, schema) {
	const types = kinds(schema)
	if (input.type === "checkbox") return input.checked
	if (input.type === "file") return input.files[0]
	if (input.value === "") return undefined
	if (input.tagName === "SELECT") return JSON.parse(input.value)
	if (input.type === "number") return Number(input.value)
	const typed = /^\s*[[{]/.test(input.value) || !types.includes("string")
	if (typed && types.some(type => type !== "string")) {
		try {
			return JSON.parse(input.value)
		} catch { /* the server says what is wrong with it */ }
	}
	return input.value
}

export function form(properties, values = {}) {
	const fields = Object.entries(properties).map(([name, schema]) => field(name, schema === true
		? {}
		: schema, values[name]))
	return {
		fields,
		read() {
			const read = {}
			for (const [name, schema] of Object.entries(properties)) {
				const input = fields.find(each => each.querySelector(`#field-${CSS.escape(name)}`))
					.querySelector(`#field-${CSS.escape(name)}`)
				const value = valueOf(input, schema === true ? {} : schema)
				if (value !== undefined) read[name] = value
			}
			return read
		},
		// Puts each fault of a refused request beside its field; what has none is returned.
		show(faults) {
			fields.forEach(each => { each.querySelector("[data-fault]").textContent = "" })
			return faults.filter(fault => {
				const name = fault.loc[1] === "resources" || fault.loc[1] === "backend"
					? fault.loc[2] : fault.loc[1]
				const place = fields.map(each => each.querySelector("[data-fault]")).find(
					each => each.dataset.fault === name)
				if (place) place.textContent = fault.msg
				return !place
			})
		}
	}
}
