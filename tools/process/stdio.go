package process

import (
	"fmt"
	"io"
	"os"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// stdio holds both sides of a child's standard files.
type stdio struct {
	child          []*os.File // stdin, stdout, stderr as the child sees them
	stdout, stderr *os.File   // where its output is read
}

func openStdio(input string, usePTY bool) (stdio, error) {
	stdin, err := openStdin(input)
	if err != nil {
		return stdio{}, fmt.Errorf("open stdin: %w", err)
	}
	stdout, childStdout, err := openStdout(usePTY)
	if err != nil {
		closeAll(stdin)
		return stdio{}, fmt.Errorf("open stdout: %w", err)
	}
	stderr, childStderr, err := os.Pipe()
	if err != nil {
		closeAll(stdin, stdout, childStdout)
		return stdio{}, fmt.Errorf("open stderr: %w", err)
	}
	return stdio{child: []*os.File{stdin, childStdout, childStderr}, stdout: stdout, stderr: stderr}, nil
}

// openStdin returns /dev/null, or a file in memory that holds the input: no writer has to feed it, and no
// file system has to be writable.
func openStdin(input string) (*os.File, error) {
	if input == "" {
		return os.Open(os.DevNull)
	}
	fd, err := unix.MemfdCreate("stdin", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "stdin")
	if _, err := f.WriteString(input); err != nil {
		closeAll(f)
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		closeAll(f)
		return nil, err
	}
	return f, nil
}

func openStdout(usePTY bool) (r, w *os.File, err error) {
	if !usePTY {
		return os.Pipe()
	}
	master, w, err := pty.Open()
	if err != nil {
		return nil, nil, err
	}
	defer closeAll(master)
	if err := makeRaw(w); err != nil {
		closeAll(w)
		return nil, nil, err
	}
	r, err = pollable(master)
	if err != nil {
		closeAll(w)
		return nil, nil, err
	}
	return r, w, nil
}

// pollable returns another file for f that takes read deadlines. The pty package leaves its files in
// blocking mode, in which a read ends only when something comes.
func pollable(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make %s non-blocking: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// makeRaw is cfmakeraw(3): bytes pass unchanged, and nothing is echoed.
func makeRaw(tty *os.File) error {
	fd := int(tty.Fd())
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("get terminal attributes: %w", err)
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return fmt.Errorf("set terminal attributes: %w", err)
	}
	return nil
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
