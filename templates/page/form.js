// Fields made from a JSON Schema, with the server's names, types and texts.
import {el, options} from "./dom.js"

const types = schema => (schema.anyOf ? schema.anyOf.flatMap(types) : [schema.type].flat())
	.filter(Boolean)
const alone = schema => (schema.anyOf || [schema]).find(each => each.type !== "null") || schema
const choices = schema => schema.enum || alone(schema).enum
const area = (id, value, lines) => el("textarea", {id, value, rows: lines, spellcheck: "false"})
const asJson = text => {
	try {
		return JSON.parse(text)
	} catch { return text }     // the server says what is wrong with it
}
const inLines = text => text.split("\n").filter(line => line.trim())
const inPairs = text => inLines(text).every(line => line.includes("=")) ? Object.fromEntries(
	inLines(text).map(line => [line.split("=")[0], line.slice(line.indexOf("=") + 1)])) : text
// A field of lines; where lines do not give back what is in it, it holds JSON.
const written = (lines, given, parse) => JSON.stringify(parse(lines.replace(/\r\n?/g, "\n")))
	=== JSON.stringify(given) ? lines : JSON.stringify(given)
const readLines = (text, bracket, parse) => text.trimStart()[0] === bracket
	&& typeof asJson(text) !== "string" ? asJson(text) : parse(text)

const only = (...names) => schema => types(schema).length && types(schema).every(
	type => [...names, "null"].includes(type))

// The kinds of fields: for which schemas, made how, from which value, and what is read from one.
// The first that fits is taken.
const KINDS = [{
	matches: choices,
	make: (id, schema, given) => el("select", {id}, options(["", ...choices(schema).map(
		each => [JSON.stringify(each), String(each)])], JSON.stringify(given))),
	read: input => JSON.parse(input.value)
}, {
	matches: schema => alone(schema).contentEncoding,
	make: id => el("input", {id, type: "file"}),
	read: input => input.files[0]
}, {    // with a default it is on or off; without one it may also be left out
	matches: only("boolean"),
	make: (id, schema, given) => given === undefined ? el("select", {id}, options(
		["", "true", "false"])) : el("input", {id, type: "checkbox", checked: given}),
	read: input => input.type === "checkbox" ? input.checked : JSON.parse(input.value)
}, {
	matches: only("integer", "number"),
	make: (id, schema, given) => el("input", {id, inputmode: "decimal", value: given ?? ""}),
	read: input => {    // as it was typed where a number here could not hold it
		const value = asJson(input.value)
		return Number.isInteger(value) && !Number.isSafeInteger(value) ? input.value : value
	}
}, {    // a line each
	matches: schema => alone(schema).type === "array" && alone(schema).items?.type === "string",
	make: (id, schema, given) => area(id, written((given || []).join("\n"), given || [],
		inLines), 2),
	read: input => readLines(input.value, "[", inLines)
}, {    // a line NAME=VALUE each
	matches: schema => alone(schema).type === "object"
		&& alone(schema).additionalProperties?.type === "string",
	make: (id, schema, given) => area(id, written(Object.entries(given || {}).map(
		pair => pair.join("=")).join("\n"), given || {}, inPairs), 2),
	read: input => readLines(input.value, "{", inPairs)
}, {
	matches: () => true,
	make: (id, schema, given) => {
		const text = given === undefined || given === null ? "" : typeof given === "string"
			? given : JSON.stringify(given)
		return text.includes("\n") || id === "field-script" ? area(id, text, 12)
			: el("input", {id, type: "text", value: text, placeholder:
				{object: "{}", array: "[]"}[alone(schema).type] || ""})
	},
	read: (input, schema) => {
		const takesText = types(schema).includes("string")
		const others = types(schema).some(type => !["string", "null"].includes(type))
		return others && (/^\s*[[{]/.test(input.value) || !takesText) ? asJson(input.value)
			: input.value
	}
}]
// An input may be called `constructor`, which every object has from elsewhere.
const own = (object, name) => Object.hasOwn(object, name) ? object[name] : undefined
const kindOf = schema => KINDS.find(kind => kind.matches(schema))

// One field: its label, its input, what it means, and room for what is wrong with it.
function field(name, schema, value, required, extra) {
	const id = `field-${name}`, input = kindOf(schema).make(id, schema, value ?? schema.default)
	input.setAttribute("aria-describedby", `about-${name} fault-${name}`)
	const fault = el("span", {class: "fault", role: "alert", "data-fault": name,
		id: `fault-${name}`})
	const say = text => {
		fault.textContent = text
		input.setAttribute("aria-invalid", Boolean(text))
		if (text) input.closest("details")?.setAttribute("open", "")
	}
	return {name, schema, input, say, element: el("div", {class: "field"},
		el("label", {for: id}, schema.title || name, required ? " (required)" : ""), input,
		extra ? el("div", {class: "bar"}, extra(input)) : "",
		el("small", {id: `about-${name}`}, schema.description || ""), fault)}
}

// The fields of some properties, with what they hold at first.  extras: {name: what stands below
// the field, made from its input}.
export function form(properties, values = {}, {required = [], extras = {}} = {}) {
	const fields = Object.entries(properties).map(([name, schema]) => field(name,
		schema === true ? {} : schema, own(values, name), required.includes(name),
		own(extras, name)))
	return {
		fields: fields.map(each => each.element),
		read: () => Object.fromEntries(fields.filter(({input}) => input.type === "checkbox"
			|| input.value !== "").map(({name, schema, input}) => [name, kindOf(schema).read(
			input, schema)])),
		// Puts each fault of a refused request beside its field; what has none is returned.
		show: faults => {
			fields.forEach(each => each.say(""))
			return faults.filter(fault => {
				const name = ["resources", "backend"].includes(fault.loc[1]) ? fault.loc[2]
					: fault.loc[1]
				const place = fields.find(each => each.name === name)
				place?.say(fault.msg)
				return !place
			})
		}
	}
}
