package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
)

// withOutput adds --output to a command that prints a table, and perhaps more formats than table
// and json.
func (a *app) withOutput(cmd *cobra.Command, more ...string) *cobra.Command {
	formats := append([]string{"table", "json"}, more...)
	last := len(formats) - 1
	cmd.Flags().
		StringVarP(&a.output, "output", "o", "table", "`format`: "+strings.Join(formats[:last], ", ")+" or "+formats[last])
	must(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)))
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !slices.Contains(formats, a.output) {
			return fmt.Errorf("--output: %q is neither %s", a.output, strings.Join(formats, " nor "))
		}
		return run(cmd, args)
	}
	return cmd
}

// printer keeps the first error of those that cobra ignores.
type printer struct {
	io.Writer
	err error
}

func (p *printer) Write(text []byte) (int, error) {
	n, err := p.Writer.Write(text)
	if p.err == nil && err != nil {
		p.err = fmt.Errorf("print: %w", err)
	}
	return n, err
}

// printJSON writes value as indented JSON.
func (a *app) printJSON(value any) error {
	encoder := json.NewEncoder(a.stdout)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// printJSONList writes an array, also of nothing.
func printJSONList[T any](a *app, values []T) error {
	if values == nil {
		values = []T{}
	}
	return a.printJSON(values)
}

// printTable writes rows under a header, in columns.
func printTable(w io.Writer, header []string, rows [][]string) error {
	table := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	_, _ = fmt.Fprintln(table, strings.Join(header, "\t")) // Flush reports the first failure
	for _, row := range rows {
		for i := range row {
			row[i] = printable(row[i])
		}
		_, _ = fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// printable replaces what could move a terminal's cursor: names and commands come from elsewhere.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}

// shorten cuts text to at most n characters.
func shorten(text string, n int) string {
	runes := []rune(text)
	if len(runes) <= n {
		return text
	}
	return string(runes[:n-1]) + "…"
}

// stamp prints a time in the local zone; the zero time is "-".
func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// byteSize prints a number of bytes for people.
func byteSize(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefix := float64(n)/unit, 0
	for ; value >= unit && prefix < 4; prefix++ {
		value /= unit
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[prefix])
}
