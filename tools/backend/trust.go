package backend

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Trusted tells whether only root and the exporter's own user can write to the
// file, or swap it by a folder on its way. In a folder with the sticky bit, such
// as /tmp, nobody can take another's entry away. The error says in one line what
// to do.
func Trusted(file string) error {
	real, err := filepath.EvalSymlinks(file)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", file, reason(err))
	}
	for p := real; ; p = filepath.Dir(p) {
		if err := trustedEntry(p); err != nil || p == "/" {
			return err
		}
	}
}

func trustedEntry(p string) error {
	info, err := os.Stat(p)
	if err != nil {
		return fmt.Errorf("%s: %w", p, reason(err))
	}
	mode := info.Mode()
	if sticky := mode.IsDir() && mode&fs.ModeSticky != 0; mode.Perm()&0o022 != 0 && !sticky {
		return fmt.Errorf("%s: is writable by others (mode %04o) and would run as root: chmod go-w %s", p, mode.Perm(), p)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 0 && owner != uint32(os.Geteuid()) {
		return fmt.Errorf("%s: belongs to user %d and would run as root: chown root %s", p, owner, p)
	}
	return nil
}

// reason drops the operation and path of an fs error: the caller names them.
func reason(err error) error {
	var perr *fs.PathError
	if errors.As(err, &perr) {
		return perr.Err
	}
	return err
}

// An Identity tells one version of a program's file from another: a package's
// upgrade puts a new file in its place.
type Identity struct {
	Device, Inode  uint64
	Size, Modified int64 // Modified is in nanoseconds
}

// Identify follows links. The zero Identity is that of a file that is not there.
func Identify(path string) Identity {
	var s syscall.Stat_t
	if syscall.Stat(path, &s) != nil {
		return Identity{}
	}
	return Identity{Device: uint64(s.Dev), Inode: s.Ino, Size: s.Size, Modified: s.Mtim.Nano()}
}
