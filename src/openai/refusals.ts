import { ContextLengthError, OptionError, TokenizerError } from '../errors.js'

export interface ErrorBody {
  error: { message: string; type: string; param: string | null; code: string | null }
}

// Options of the library, as bodies call them.
const names: Partial<Record<string, string>> = { maxNewTokens: 'max_tokens', topP: 'top_p', logitBias: 'logit_bias', topLogprobs: 'logprobs', turns: 'messages' }

/** The answer, of status 400, to a request that is at fault itself; nothing for any other error. */
export function refusalOf(thrown: unknown): ErrorBody | undefined {
  const make = (code: string | null, param: string | null = null): ErrorBody => {
    return { error: { message: (thrown as Error).message, type: 'invalid_request_error', param, code } }
  }
  if (thrown instanceof OptionError) return make(null, names[thrown.parameter] ?? thrown.parameter)
  if (thrown instanceof ContextLengthError) return make('context_length_exceeded')
  return thrown instanceof TokenizerError ? make('tokenizer') : undefined
}
