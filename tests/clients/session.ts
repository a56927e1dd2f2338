// A session through openapi-fetch and the types in api.d.ts: session.js URL
import createClient from "openapi-fetch";
import type { paths } from "./api.js";
declare const process: { argv: string[] };
const client = createClient<paths>({ baseUrl: process.argv[2] });
function got<T>(answer: { data?: T; error?: unknown }): T {
    if (answer.error !== undefined) throw new Error(JSON.stringify(answer.error));
    return answer.data as T;
}
const jobid = got(await client.POST("/v1/jobs/new", { body: { script: "cat in/data.txt" } }));
const path = { jobid };
const bytes = new TextEncoder().encode("moo\n");
console.log(got(await client.PUT("/v1/jobs/{jobid}/files/{path}", {
    params: { path: { jobid, path: "in/data.txt" } }, body: "", bodySerializer: () => bytes,
    headers: { "Content-Type": "application/octet-stream" } })));
console.log(got(await client.POST("/v1/jobs/{jobid}/start", { params: { path } })));
const events: string = got(await client.GET("/v1/jobs/{jobid}/events",
    { params: { path }, parseAs: "text" }));
console.log([...events.matchAll(/"state": "(\w+)"/g)].map((match) => match[1]).join(" "));
const [job] = got(await client.GET("/v1/jobs", { params: { query: { limit: 1 } } }));
console.log(job.jobid === jobid, job.state, job.info);
const logs: { [name: string]: string } = got(await client.GET("/v1/jobs/{jobid}/logs",
    { params: { path } }));
console.log(JSON.stringify(logs["stdout.1"]));
const log: string = got(await client.GET("/v1/jobs/{jobid}/logs/{name}",
    { params: { path: { jobid, name: "stdout.1" } }, parseAs: "text" }));
console.log(JSON.stringify(log));
const archive: ArrayBuffer = got(await client.GET("/v1/jobs/{jobid}/archive",
    { params: { path }, parseAs: "arrayBuffer" }));
const tar = await new Response(new Blob([archive]).stream()
    .pipeThrough(new DecompressionStream("gzip"))).text();
console.log(tar.includes("in/data.txt") && tar.includes("moo"));
const other = got(await client.POST("/v1/jobs", { body: { script: "sleep 600" } }));
if (typeof other !== "string") throw new Error("without wait, it is the id");
console.log(got(await client.POST("/v1/jobs/{jobid}/cancel",
    { params: { path: { jobid: other } } })));
console.log(got(await client.GET("/v1/jobs/{jobid}/state",
    { params: { path: { jobid: other } } })));
console.log(got(await client.DELETE("/v1/jobs/{jobid}",
    { params: { path, query: { purge: true } } })));
console.log((await client.GET("/v1/jobs/{jobid}", { params: { path } })).response.status);
