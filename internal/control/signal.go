package control

import (
	"strconv"
	"strings"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// signals are Linux's numbers: the guest is Linux whatever this program runs on.
var signals = map[string]int{
	"HUP":    1,
	"INT":    2,
	"QUIT":   3,
	"ILL":    4,
	"TRAP":   5,
	"ABRT":   6,
	"BUS":    7,
	"FPE":    8,
	"KILL":   9,
	"USR1":   10,
	"SEGV":   11,
	"USR2":   12,
	"PIPE":   13,
	"ALRM":   14,
	"TERM":   15,
	"STKFLT": 16,
	"CHLD":   17,
	"CONT":   18,
	"STOP":   19,
	"TSTP":   20,
	"TTIN":   21,
	"TTOU":   22,
	"URG":    23,
	"XCPU":   24,
	"XFSZ":   25,
	"VTALRM": 26,
	"PROF":   27,
	"WINCH":  28,
	"IO":     29,
	"PWR":    30,
	"SYS":    31,
}

// SignalNumber reads the name or number of a signal: TERM, SIGTERM or 15. CodeInvalid: it is none.
func SignalNumber(text string) (int, error) {
	if n, ok := signals[strings.TrimPrefix(strings.ToUpper(text), "SIG")]; ok {
		return n, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 64 {
		return 0, stacyvm.Invalid("signal", "%.20q is no signal such as TERM, SIGKILL or 9", text)
	}
	return n, nil
}
