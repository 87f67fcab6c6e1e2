package process

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// source is one output of a child, and counts what comes from it.
type source struct {
	file  *os.File
	bytes atomic.Uint64
	last  atomic.Int64 // time of the last read that brought something, in Unix nanoseconds; 0 before it
	cut   bool         // it ended by error, not by its end; valid after readLines
}

// readLines delivers the lines of s until it ends.
func (s *source) readLines(limit int, deliver LineFunc) {
	if deliver == nil {
		deliver = func([]byte, bool) {}
	}
	s.cut = readLines(s, limit, deliver) != nil
}

// endBy makes reads fail from time t on.
func (s *source) endBy(t time.Time) { _ = s.file.SetReadDeadline(t) }

// Read implements io.Reader.
func (s *source) Read(b []byte) (int, error) {
	n, err := s.file.Read(b)
	if n > 0 {
		s.bytes.Add(uint64(n))
		s.last.Store(time.Now().UnixNano())
	}
	if errors.Is(err, unix.EIO) {
		// A pseudo-terminal that nobody holds open any more.
		err = io.EOF
	}
	return n, err
}

// readLines delivers the lines of r, cut to limit bytes, and returns the error that ended r, nil for
// io.EOF. A last line without newline is delivered too. It needs limit bytes, however long the lines.
func readLines(r io.Reader, limit int, deliver LineFunc) error {
	b := bufio.NewReaderSize(r, limit+1)
	for {
		line, err := b.ReadSlice('\n')
		if len(line) > 0 {
			line = bytes.TrimSuffix(line, []byte{'\n'})
			deliver(line[:min(len(line), limit)], len(line) > limit)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			err = discardLine(b)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// discardLine drops everything up to and including the next newline.
func discardLine(b *bufio.Reader) error {
	for {
		if _, err := b.ReadSlice('\n'); !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}
