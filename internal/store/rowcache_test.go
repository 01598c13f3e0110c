package store

import (
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// TestRowCacheIsBounded by number and by what rows hold.
func TestRowCacheIsBounded(t *testing.T) {
	for name, metadata := range map[string]map[string]string{
		"small": {"a": "b"}, "large": {"a": strings.Repeat("b", 64<<10)},
	} {
		c := newRowCache()
		for range maxCachedRows / 100 {
			rows := make([]stacyvm.Sandbox, 150)
			for i := range rows {
				rows[i] = stacyvm.Sandbox{ID: stacyvm.NewSandboxID(), Metadata: metadata}
			}
			c.put(rows, 0)
			c.put(rows[:10], 0) // again
		}
		bytes := 0
		for _, row := range c.rows {
			bytes += textBytes(row.Sandbox)
		}
		if len(c.rows) > maxCachedRows || bytes > maxCachedBytes+64<<10 || bytes != c.bytes {
			t.Errorf("%s: %d rows with %d bytes, counted %d", name, len(c.rows), bytes, c.bytes)
		}
	}
}
