package process

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Exit tells how a process ended.
type Exit struct {
	Code   int            // exit status, -1 if a signal ended it or the status is unknown
	Signal syscall.Signal // the signal that ended it, 0 if none did
	Wall   time.Duration  // from start to end

	// OutputCut is set if output may be missing: another process held it open, or it was not taken
	// within two seconds of the end.
	OutputCut bool
}

// exitOf takes nil for a child whose status somebody else has reaped.
func exitOf(state *os.ProcessState, wall time.Duration) Exit {
	exit := Exit{Code: state.ExitCode(), Wall: wall}
	if state == nil {
		return exit
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		exit.Signal = status.Signal()
	}
	return exit
}

// String returns one line such as "exit status 1" or "killed by SIGKILL".
func (e Exit) String() string {
	text := fmt.Sprintf("exit status %d", e.Code)
	switch {
	case e.Signal != 0:
		text = "killed by " + signalName(e.Signal)
	case e.Code < 0:
		text = "exit status unknown"
	}
	if e.OutputCut {
		text += ", output cut off"
	}
	return text
}

// signalName returns a number for real-time signals, which have no name.
func signalName(sig syscall.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", int(sig))
}
