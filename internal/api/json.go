package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/strictjson"
)

// jsonFormat is the only format of bodies.
var jsonFormat = huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: decode}

// decode reads JSON that has one meaning; its errors name the field. Huma decodes twice: into an
// any, to validate, and then into the route's type.
func decode(data []byte, into any) error {
	err := strictjson.Unmarshal(data, into)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	var unclear *strictjson.Error
	switch {
	case err == nil:
		return zeroBytes(into)
	case errors.As(err, &unclear) && unclear.Field == "":
		return errors.New("body: " + unclear.Problem)
	case errors.As(err, &unclear):
		return unclear
	case errors.As(err, &syntax):
		return fmt.Errorf("body: is not JSON: %w at byte %d", syntax, syntax.Offset)
	case errors.As(err, &kind) && kind.Field != "":
		return fmt.Errorf("%s: %.64s does not fit", kind.Field, kind.Value)
	}
	return errors.New("body: does not fit")
}

// contents are the members of a body that are a file's or a process's bytes, in which a zero byte
// is one like any other.
var contents = map[string]bool{"content": true, "data": true}

// zeroBytes refuses zero bytes in what a body names, at every depth: PostgreSQL, the kernel and C
// programs end a text there. It looks at the form in which huma validates.
func zeroBytes(into any) error {
	loose, ok := into.(*any)
	if !ok {
		return nil
	}
	if members, ok := (*loose).(map[string]any); ok {
		for name, member := range members {
			if contents[name] {
				continue
			}
			if field := zeroByte(name, member); field != "" {
				return noZero(field)
			}
		}
		return nil
	}
	if field := zeroByte("body", *loose); field != "" {
		return noZero(field)
	}
	return nil
}

// zeroByte gives the path of a text, or of a name, with a zero byte.
func zeroByte(path string, value any) string {
	switch v := value.(type) {
	case string:
		if strings.Contains(v, "\x00") {
			return path
		}
	case []any:
		for i, element := range v {
			if field := zeroByte(path+"["+strconv.Itoa(i)+"]", element); field != "" {
				return field
			}
		}
	case map[string]any:
		for name, member := range v {
			if field := zeroByte(path+"."+name, member); field != "" {
				return field
			}
		}
	}
	if strings.Contains(path, "\x00") {
		return path
	}
	return ""
}

func noZero(field string) error {
	return &strictjson.Error{
		Field:   cutField(strings.ReplaceAll(field, "\x00", "")),
		Problem: "must not hold a zero byte",
	}
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
