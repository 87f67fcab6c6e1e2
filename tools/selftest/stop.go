package selftest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// stopReaders stops the tools that print what they see, until resume is called:
// what is done meanwhile has to wait in their buffers. One whose buffer is too
// small would lose it in any storm.
func (w *worker) stopReaders() (resume func(), err error) {
	var stopped []int // pidfds: a number could be another process's by now
	resume = func() {
		for _, fd := range stopped {
			_ = unix.PidfdSendSignal(fd, unix.SIGCONT, nil, 0)
			unix.Close(fd)
		}
	}
	for _, pid := range w.Readers {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return resume, fmt.Errorf("process %d: %w", pid, err)
		}
		stopped = append(stopped, fd)
		if _, parent, err := stat(pid); err != nil || parent != w.Exporter {
			return resume, fmt.Errorf("process %d is not a child of %d (%v)", pid, w.Exporter, err)
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGSTOP, nil, 0); err != nil {
			return resume, fmt.Errorf("stop process %d: %w", pid, err)
		}
		if err := awaitStop(pid); err != nil {
			return resume, err
		}
	}
	return resume, nil
}

func awaitStop(pid int) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		state, _, err := stat(pid)
		if err != nil || state == 'T' {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("process %d does not stop: it is in state %c", pid, state)
		}
	}
}

// stat is a process's state and parent, of /proc/PID/stat. Its comm, in
// parentheses, can have any content.
func stat(pid int) (state byte, parent int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	end := bytes.LastIndexByte(text, ')')
	if end < 0 {
		return 0, 0, errors.New("no comm")
	}
	_, err = fmt.Sscanf(string(text[end+1:]), " %c %d", &state, &parent)
	return state, parent, err
}
