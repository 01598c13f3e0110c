package store

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"maps"
	"strings"
	"sync/atomic"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// specs keeps specs that were decoded, each where the hash of its text says: most sandboxes have
// one of a few, and a list decodes each of its rows.
var specs [64]atomic.Pointer[decodedSpec]

var specSeed = maphash.MakeSeed()

// maxKeptSpec bounds the text of a spec that is kept, in bytes.
const maxKeptSpec = 2 << 10

type decodedSpec struct {
	text string
	spec stacyvm.Spec
}

// decodeSpec reads a spec. Its maps are the caller's own.
func decodeSpec(text string) (stacyvm.Spec, error) {
	slot := &specs[maphash.String(specSeed, text)%uint64(len(specs))]
	found := slot.Load()
	if found == nil || found.text != text {
		found = &decodedSpec{text: text}
		if err := json.Unmarshal([]byte(text), &found.spec); err != nil {
			return found.spec, fmt.Errorf("decode a stored spec: %w", err)
		}
		if len(text) <= maxKeptSpec {
			slot.Store(found)
		}
	}
	spec := found.spec
	spec.Env, spec.Selector = maps.Clone(spec.Env), maps.Clone(spec.Selector)
	return spec, nil
}

// decodeTexts reads an object of texts, or null.
func decodeTexts(text string) (m map[string]string, err error) {
	if text == "null" {
		return nil, nil
	}
	if m, ok := plainTexts(text); ok {
		return m, nil
	}
	return m, unpack(&text, &m)
}

// plainTexts is decodeTexts for what packed writes of texts that need no escapes.
func plainTexts(text string) (map[string]string, bool) {
	rest, ok := strings.CutPrefix(text, "{")
	if !ok || strings.Contains(text, `\`) {
		return nil, false
	}
	m := map[string]string{}
	for rest != "}" {
		name, after, ok := quoted(rest)
		if !ok || after == "" || after[0] != ':' {
			return nil, false
		}
		value, after, ok := quoted(after[1:])
		if !ok {
			return nil, false
		}
		m[name] = value
		if rest, ok = strings.CutPrefix(after, ","); !ok && rest != "}" || ok && rest == "}" {
			return nil, false
		}
	}
	return m, true
}

// quoted takes a text in quotes off the front.
func quoted(text string) (inside, rest string, ok bool) {
	if text, ok = strings.CutPrefix(text, `"`); !ok {
		return "", "", false
	}
	return strings.Cut(text, `"`)
}
