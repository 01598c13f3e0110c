package main

import (
	"fmt"
	"strings"
	"time"
)

// side is one of the things that a row measures in turns.
type side struct {
	name string
	// turn does the work once, or several times.
	turn func(ctx runContext) (sample, error)
}

// sample is what each time took, and what the server used of the processors for all of them.
type sample struct {
	times
	cpu time.Duration // 0: no server
}

// row is one figure, with what it is compared to. Only ratios of what was measured in turns in one
// run say something: machines differ, and one machine differs from minute to minute.
type row struct {
	name   string
	ours   side
	beside side // what the same costs without the product, or the least that it can; no turn: nothing
	before side // the same with an earlier build; no turn: nothing
	turns  int
	rate   bool // what counts is how many there are in a second
	worst  bool // what counts is the 99th percentile
}

// measure takes turns, and prints the ratios first.
func (b *bench) measure(ctx runContext, r row) error {
	if b.profile != "" {
		return b.profiled(ctx, r)
	}
	sides := []side{r.ours}
	for _, s := range []side{r.beside, r.before} {
		if s.turn != nil {
			sides = append(sides, s)
		}
	}
	taken := make([]sample, len(sides))
	turns := r.turns
	if b.smoke {
		turns = max(2, turns/4)
	}
	for range turns {
		for i, s := range sides {
			one, err := s.turn(ctx)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", r.name, s.name, err)
			}
			taken[i].times = append(taken[i].times, one.times...)
			taken[i].cpu += one.cpu
		}
	}
	var ratios, figures strings.Builder
	for i, s := range sides {
		if i > 0 {
			fmt.Fprintf(&ratios, "%s %-5s ", "÷ "+s.name, quotient(r.of(taken[0]), r.of(taken[i]), r.rate))
			if taken[0].cpu > 0 && taken[i].cpu > 0 {
				fmt.Fprintf(&ratios, "(cpu %s) ", quotient(taken[0].cpuEach(), taken[i].cpuEach(), false))
			}
		}
		fmt.Fprintf(&figures, "   %s %s", s.name, taken[i].describe(r.rate))
	}
	if b.smoke && ratios.Len() > 0 {
		figures.Reset()
	}
	b.figure(r.name, ratios.String()+figures.String())
	return nil
}

// of is the figure that the row compares.
func (r row) of(s sample) time.Duration {
	if r.worst {
		return s.percentile(99)
	}
	return s.middle()
}

func (s *sample) middle() time.Duration { return s.percentile(50) }

// each is what one of them used of the processors.
func (s *sample) cpuEach() time.Duration { return s.cpu / time.Duration(len(s.times)) }

func (s *sample) describe(rate bool) string {
	text := "p50 " + short(s.middle())
	if rate {
		text = fmt.Sprintf("%.0f/s", float64(time.Second)/float64(s.middle()))
	}
	if len(s.times) >= 100 {
		text += " p99 " + short(s.percentile(99))
	}
	if s.cpu > 0 {
		text += " cpu " + short(s.cpuEach())
	}
	return text
}

func quotient(a, b time.Duration, rate bool) string {
	if rate {
		a, b = b, a
	}
	return fmt.Sprintf("%.2f", float64(a)/float64(b))
}

// timed makes a sample of what is done with a system, nil for none.
func timed(s *system, do func() (times, error)) (one sample, err error) {
	var before, after time.Duration
	if s != nil {
		if before, err = s.cpu(); err != nil {
			return one, err
		}
	}
	if one.times, err = do(); err != nil || s == nil {
		return one, err
	}
	after, err = s.cpu()
	one.cpu = after - before
	return one, err
}

// repeat makes a turn in which some clients do the same n times in all.
func repeat(s *system, clients, n int, do func(ctx runContext) error) func(runContext) (sample, error) {
	return func(ctx runContext) (sample, error) {
		return timed(s, func() (times, error) {
			took := make(times, n)
			err := each(clients, n, func(i int) error {
				began := time.Now()
				defer func() { took[i] = time.Since(began) }()
				return do(ctx)
			})
			return took, err
		})
	}
}
