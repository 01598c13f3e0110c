package main

import (
	"os"
	"os/signal"
	"syscall"
)

// Signals that a program of the guest may send to process 1 and that would end it. They are caught
// and not ignored: children would inherit that they are.
var deadly = []os.Signal{
	syscall.SIGHUP,
	syscall.SIGINT,
	syscall.SIGQUIT,
	syscall.SIGILL,
	syscall.SIGTRAP,
	syscall.SIGABRT,
	syscall.SIGBUS,
	syscall.SIGFPE,
	syscall.SIGUSR1,
	syscall.SIGSEGV,
	syscall.SIGUSR2,
	syscall.SIGPIPE,
	syscall.SIGALRM,
	syscall.SIGTERM,
	syscall.SIGSTKFLT,
	syscall.SIGTSTP,
	syscall.SIGTTIN,
	syscall.SIGTTOU,
	syscall.SIGXCPU,
	syscall.SIGXFSZ,
	syscall.SIGVTALRM,
	syscall.SIGIO,
	syscall.SIGPWR,
	syscall.SIGSYS,
}

// keepRunning makes these signals have no effect.
func keepRunning() {
	signal.Notify(make(chan os.Signal, 1), deadly...) // nobody receives: they are dropped
}
