// Package kernels tries the Debian package on other kernels, in virtual
// machines. It is all tests:
//
//	make test-kernels
//	make test-kernels KERNELS=bookworm
//
// On the host, TestKernels boots the kernel of a Debian suite under QEMU, with
// the bpftrace, bcc and libbpf-tools that belong to it. In the machine TestGuest,
// of the same test binary, installs the package under systemd, has each tool
// served by each backend in turn, makes loads of known size, and compares. The
// host writes what came out into docs/kernels.md.
package kernels
