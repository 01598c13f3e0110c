package api

import (
	"bytes"
	"encoding/json"
)

//go:generate go test . -run TestDocument -update

// Document is the OpenAPI description of the API, indented. It is checked in as docs/openapi.json
// and served, with the server's version, at /api/v1/openapi.json.
func Document(version string) ([]byte, error) {
	text, err := json.Marshal(build(Config{Version: version}).huma.OpenAPI())
	if err != nil {
		return nil, err
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, text, "", "  "); err != nil {
		return nil, err
	}
	indented.WriteByte('\n')
	return indented.Bytes(), nil
}
