// What the library itself answers to the requests of lm_eval: reads {score, follow, complete, generate} from stdin, writes the same keys to stdout.
import { text } from 'node:stream/consumers'
import { Model } from '../../dist/index.js'

const asked = JSON.parse(await text(process.stdin))
const model = await Model.load('models/lamb', { device: 'cpu' })
const encode = async (words) => [...(await model.tokenizer.encode(words))]

/** Log-probabilities of a continuation, and whether greedy decoding says it: both texts are encoded as one, and cut where the first one's ids end. */
async function score([context, continuation]) {
  const end = context.trimEnd()
  const whole = await encode(end + context.slice(end.length) + continuation)
  const [scored] = await model.score([whole], { topLogprobs: 1 })
  const entries = scored.slice((await encode(end)).length)
  return { logprobs: entries.map(({ logprob }) => logprob), greedy: entries.every(({ logprob, top }) => logprob === top[0].logprob) }
}

/** Log-probabilities of a text that follows a token. */
async function follow([token, words]) {
  const [scored] = await model.score([[token, ...(await encode(words))]])
  return scored.slice(1).map(({ logprob }) => logprob)
}

const greedy = ({ until, max_gen_toks: maxNewTokens }) => ({ temperature: 0, maxNewTokens, stop: until })
const found = {
  score: await Promise.all(asked.score.map(score)),
  follow: await Promise.all(asked.follow.map(follow)),
  complete: await Promise.all(asked.complete.map(async ([prompt, options]) => (await model.complete(prompt, greedy(options))).text)),
  generate: await Promise.all(asked.generate.map(async ([prompt, options]) => (await model.generate(prompt, greedy(options))).text)),
}
process.stdout.write(JSON.stringify(found))
await model.dispose()
