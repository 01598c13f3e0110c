package api

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"
)

// appendSandbox appends a sandbox as encoding/json writes it, without reflection: a list holds up
// to 10,000 of them.
func appendSandbox(b []byte, s *Sandbox) ([]byte, error) {
	b = appendText(append(b, `{"id":`...), s.ID)
	b = appendText(append(b, `,"state":`...), s.State)
	b = appendOptional(b, `,"reason":`, s.Reason)
	b = appendOptional(b, `,"detail":`, s.Detail)
	var err error
	if s.Since != nil {
		if b, err = appendTime(append(b, `,"since":`...), *s.Since); err != nil {
			return b, err
		}
	}
	if s.QueuePlace != 0 {
		b = strconv.AppendInt(append(b, `,"queue_place":`...), int64(s.QueuePlace), 10)
	}
	b = appendText(append(b, `,"provider":`...), s.Provider)
	b = appendText(append(b, `,"image":`...), s.Image)
	b = strconv.AppendInt(append(b, `,"memory_mb":`...), int64(s.MemoryMB), 10)
	b = strconv.AppendInt(append(b, `,"vcpus":`...), int64(s.VCPUs), 10)
	if s.DiskMB != 0 {
		b = strconv.AppendInt(append(b, `,"disk_mb":`...), int64(s.DiskMB), 10)
	}
	b = appendOptional(b, `,"owner_id":`, s.OwnerID)
	b = appendOptional(b, `,"tenant_id":`, s.TenantID)
	b = appendOptional(b, `,"vm_id":`, s.VMID)
	b = appendOptional(b, `,"worker_id":`, s.WorkerID)
	if s.Recovered {
		b = append(b, `,"recovered":true`...)
	}
	if len(s.Unenforced) > 0 {
		b = appendTexts(append(b, `,"unenforced":`...), s.Unenforced)
	}
	if b, err = appendTime(append(b, `,"created_at":`...), s.CreatedAt); err != nil {
		return b, err
	}
	if b, err = appendTime(append(b, `,"expires_at":`...), s.ExpiresAt); err != nil {
		return b, err
	}
	if len(s.Metadata) > 0 {
		b = appendMap(append(b, `,"metadata":`...), s.Metadata)
	}
	b = appendOptional(b, `,"preview_domain":`, s.PreviewDomain)
	return append(b, '}'), nil
}

// appendOptional appends a member, unless its text is empty.
func appendOptional(b []byte, name, text string) []byte {
	if text == "" {
		return b
	}
	return appendText(append(b, name...), text)
}

// appendText appends a text in quotes. encoding/json takes those that need more.
func appendText(b []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			var escaped bytes.Buffer
			encoder := json.NewEncoder(&escaped)
			encoder.SetEscapeHTML(false)
			_ = encoder.Encode(text)                               // a text can always be encoded
			return append(b, escaped.Bytes()[:escaped.Len()-1]...) // without the line's end
		}
	}
	return append(append(append(b, '"'), text...), '"')
}

func appendTexts(b []byte, list []string) []byte {
	separator := byte('[')
	for _, text := range list {
		b = appendText(append(b, separator), text)
		separator = ','
	}
	return append(b, ']')
}

func appendMap(b []byte, m map[string]string) []byte {
	separator := byte('{')
	for _, name := range slices.Sorted(maps.Keys(m)) {
		b = append(appendText(append(b, separator), name), ':')
		b = appendText(b, m[name])
		separator = ','
	}
	return append(b, '}')
}

// appendTime appends a time in quotes; one with a year of more than four digits is an error.
func appendTime(b []byte, t time.Time) ([]byte, error) {
	b, err := t.AppendText(append(b, '"'))
	return append(b, '"'), err
}
