package eventlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxLinks is how many symbolic links a path may go through, as the kernel has
// it.
const maxLinks = 40

// open opens a log for appending. A file is made with mode 0640 where there is
// none. No other user can have led the path elsewhere: the exporter is root, and
// what it appends to would be theirs to choose.
func open(path string) (io.WriteCloser, error) {
	if path == Stdout {
		return keepOpen{os.Stdout}, nil
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	links := 0
	dir, err := follow("/", filepath.Dir(path), &links)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	// Not blocking, as opening a pipe would hang; it has no effect on a file.
	f, err := os.OpenFile(filepath.Join(dir, filepath.Base(path)), os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o640)
	if errors.Is(err, syscall.ELOOP) {
		err = errors.New("is a symbolic link: want the file itself")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, plain(err))
	}
	if err := ours(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// ours tells whether an open file is one that no other user put there.
func ours(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return plain(err)
	}
	switch stat := info.Sys().(*syscall.Stat_t); {
	case !info.Mode().IsRegular():
		return errors.New("is no regular file")
	case !trusted(stat):
		return fmt.Errorf("belongs to user %d: want a file of root", stat.Uid)
	case stat.Nlink > 1:
		return errors.New("has another name too (a hard link): want a file of its own")
	}
	return nil
}

// follow resolves the folders of a path below a resolved one, as the kernel
// does, and refuses those that another user could exchange: folders and links
// of others, and folders that all can write to, unless these have the sticky bit,
// which keeps our entries where they are.
func follow(from, path string, links *int) (string, error) {
	if filepath.IsAbs(path) {
		from = "/"
	}
	for name := range strings.SplitSeq(path, "/") {
		next := filepath.Join(from, name)
		info, err := os.Lstat(next)
		if err != nil {
			return "", fmt.Errorf("%s: %w", next, plain(err))
		}
		mode := info.Mode()
		switch {
		case !trusted(info.Sys().(*syscall.Stat_t)):
			return "", fmt.Errorf("%s belongs to another user, who could lead the log elsewhere", next)
		case mode&fs.ModeSymlink != 0:
			if *links++; *links > maxLinks {
				return "", syscall.ELOOP
			}
			target, err := os.Readlink(next)
			if err != nil {
				return "", plain(err)
			}
			if next, err = follow(from, target, links); err != nil {
				return "", err
			}
		case mode.IsDir() && mode.Perm()&0o002 != 0 && mode&fs.ModeSticky == 0:
			return "", fmt.Errorf("%s is writable by all (mode %04o), who could lead the log elsewhere", next, mode.Perm())
		}
		from = next
	}
	return from, nil
}

func trusted(stat *syscall.Stat_t) bool {
	return stat.Uid == 0 || stat.Uid == uint32(os.Geteuid())
}

// plain drops the operation and path of an error: the caller names them.
func plain(err error) error {
	var perr *fs.PathError
	if errors.As(err, &perr) {
		return perr.Err
	}
	return err
}

// keepOpen is standard output, which others write to as well.
type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }
