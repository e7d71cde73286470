// Classifies one text with @huggingface/inference, in each way that it can be called.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [directory, url, text] = process.argv.slice(2);
const found = createRequire(`${directory}/`).resolve("@huggingface/inference");
const { InferenceClient } = await import(pathToFileURL(found));
const client = new InferenceClient("hf_of_nobody");
const endpoint = client.endpoint(url);
const answers = [
  await endpoint.textClassification({ inputs: text }),
  await endpoint.textClassification({ inputs: text, parameters: {} }),
  await endpoint.textClassification({ inputs: text, parameters: { top_k: 2 } }),
  await client.textClassification({ endpointUrl: url, inputs: text }),
];
console.log(JSON.stringify(answers));
