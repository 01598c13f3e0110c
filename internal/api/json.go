package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// maxDepth bounds how deep a JSON body may be nested.
const maxDepth = 64

// jsonFormat is the only format of bodies.
var jsonFormat = huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: decode}

// decode is json.Unmarshal with bounds and with messages that name the field. Text that is not UTF-8 is refused, because
// it would not arrive as it was sent.
func decode(data []byte, into any) error {
	if _, first := into.(*any); first { // huma decodes twice, at first to validate
		if !utf8.Valid(data) {
			return errors.New("body: is not UTF-8 text; send bytes as base64")
		}
		if tooDeep(data) {
			return fmt.Errorf("body: nested deeper than %d", maxDepth)
		}
	}
	err := json.Unmarshal(data, into)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &syntax):
		return fmt.Errorf("body: is not JSON: %w at byte %d", syntax, syntax.Offset)
	case errors.As(err, &kind) && kind.Field != "":
		return fmt.Errorf("%s: %.64s does not fit", kind.Field, kind.Value)
	}
	return errors.New("body: does not fit")
}

// tooDeep counts brackets outside of strings. It also holds for text that is not JSON at all.
func tooDeep(data []byte) bool {
	depth, quoted, escaped := 0, false, false
	for _, c := range data {
		switch {
		case escaped:
			escaped = false
		case quoted:
			quoted, escaped = c != '"', c == '\\'
		case c == '"':
			quoted = true
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// validated reads a message as huma reads a body.
func validated[T any](a *api, schema *huma.Schema, text []byte) (message T, err error) {
	var loose any
	if err := decode(text, &loose); err != nil {
		return message, stacyvm.Wrap(stacyvm.CodeInvalid, err, err.Error())
	}
	var result huma.ValidateResult
	path := huma.NewPathBuffer(nil, 0)
	path.Push("body")
	huma.Validate(a.huma.OpenAPI().Components.Schemas, schema, path, huma.ModeWriteToServer, loose, &result)
	if len(result.Errors) > 0 {
		return message, stacyvm.Errorf(stacyvm.CodeInvalid, "%s", faults("", result.Errors))
	}
	if err := decode(text, &message); err != nil {
		return message, stacyvm.Wrap(stacyvm.CodeInvalid, err, err.Error())
	}
	return message, nil
}
