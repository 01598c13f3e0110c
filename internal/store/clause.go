package store

import (
	"encoding/json"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"
)

// Page is a part of a list. Lists are walked by key: rows that come and go meanwhile move no
// others.
type Page struct {
	Limit int    // at most this many rows; 0: 1,000,000
	After Cursor // continue behind this row; the zero value: from the beginning
	// Until and Skip are for lists by time of creation alone.
	Until Cursor // end with this row; the zero value: with the last one
	Skip  int    // leave out this many rows first
}

// Cursor is a place in a list: the last row that was seen. A list that goes by name or number
// looks at ID alone.
type Cursor struct {
	CreatedAt time.Time
	ID        string
}

// clause collects the parts of a statement whose parts depend on the question. Values go in as
// arguments only.
type clause struct {
	parts []string
	args  []any
}

// arg adds a value and gives its placeholder.
func (c *clause) arg(value any) string {
	c.args = append(c.args, value)
	return "$" + strconv.Itoa(len(c.args))
}

// add adds a part; each %s in it takes the placeholder of a value.
func (c *clause) add(part string, values ...any) {
	places := make([]any, len(values))
	for i, value := range values {
		places[i] = c.arg(value)
	}
	c.parts = append(c.parts, fmt.Sprintf(part, places...))
}

// equal adds a condition on a column unless the value is empty.
func (c *clause) equal(column, value string) {
	if value != "" {
		c.add(column+` = %s`, value)
	}
}

// named is equal for a column whose index leaves out rows in which it is empty.
func (c *clause) named(column, value string) {
	if value != "" {
		c.equal(column, value)
		c.parts = append(c.parts, column+` <> ''`)
	}
}

// where joins the parts as conditions; without any it is empty.
func (c *clause) where() string {
	if len(c.parts) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(c.parts, " AND ")
}

// everything is the limit of lists without one.
const everything = 1_000_000

// newest ends the text of a list that goes from the newest row back: conditions, order and limit.
func (c *clause) newest(page Page) string {
	if page.After != (Cursor{}) {
		c.add(`(created_us, id) < (%s, %s)`, toUS(page.After.CreatedAt), page.After.ID)
	}
	if page.Until != (Cursor{}) {
		c.add(`(created_us, id) >= (%s, %s)`, toUS(page.Until.CreatedAt), page.Until.ID)
	}
	text := c.where() + ` ORDER BY created_us DESC, id DESC LIMIT ` + c.arg(limited(page.Limit, everything))
	if page.Skip > 0 {
		text += ` OFFSET ` + c.arg(page.Skip)
	}
	return text
}

// byKey ends the text of a list that goes by a unique column.
func (c *clause) byKey(column string, page Page) string {
	if page.After.ID != "" {
		c.add(column+` > %s`, page.After.ID)
	}
	return c.where() + ` ORDER BY ` + column + ` LIMIT ` + c.arg(limited(page.Limit, everything))
}

// list adds several values and gives "($1, $2, ...)".
func (c *clause) list(values ...any) string {
	places := make([]string, len(values))
	for i, value := range values {
		places[i] = c.arg(value)
	}
	return "(" + strings.Join(places, ", ") + ")"
}

// rowsAtOnce bounds a statement that takes many rows: few enough to keep it prepared.
const rowsAtOnce = 16

// inParts gives a list in parts whose lengths are powers of two, so that statements for lists of any
// length have few texts.
func inParts[T any](list []T) iter.Seq[[]T] {
	return func(yield func([]T) bool) {
		for size := rowsAtOnce; len(list) > 0; {
			for size > len(list) {
				size /= 2
			}
			if !yield(list[:size]) {
				return
			}
			list = list[size:]
		}
	}
}

// packed turns a value into the JSON that the database keeps without looking into it.
func packed(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("store: a field that cannot be JSON: %v", err)) // the vocabulary's types all can
	}
	return string(text)
}

// unpack reads JSON fields back: pairs of text and target.
func unpack(pairs ...any) error {
	for i := 0; i < len(pairs); i += 2 {
		if err := json.Unmarshal([]byte(*pairs[i].(*string)), pairs[i+1]); err != nil {
			return fmt.Errorf("decode a stored field: %w", err)
		}
	}
	return nil
}

// limited is a limit with its default.
func limited(limit, otherwise int) int {
	if limit <= 0 {
		return otherwise
	}
	return limit
}

// fromMicros converts a stored duration.
func fromMicros(us int64) time.Duration { return time.Duration(us) * time.Microsecond }

// opaque is JSON as it came; the database keeps it as text, an empty one as "".
func opaque(text string) json.RawMessage {
	if text == "" {
		return nil
	}
	return json.RawMessage(text)
}

// toUS and fromUS convert times; the zero time is 0.
func toUS(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromUS(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
