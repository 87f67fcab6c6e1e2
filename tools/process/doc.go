// Package process starts, watches, limits and stops one child process.
//
// A [Process] is born by [Start] and ends in [Process.Done]. In between its lines go to the two
// functions of its [Spec], [Process.Usage] says what it costs, and [Process.Stop] ends it in the way
// that BPF tools want: SIGINT, so that they print what they hold, and SIGKILL when they do not listen.
// When to start it again is the caller's decision; [Backoff] spaces the attempts.
//
// # What a child gets
//
// The environment of its Spec and nothing else, / as its directory, /dev/null as its stdin, a process
// group of its own, a raised OOM score, and SIGKILL when the thread that started it dies, which is when
// this process dies, however it dies. That signal reaches the child alone: a child that has children of
// its own must be left to the service manager's cgroup when this process is killed.
//
// It does not get an ignored SIGINT either, which a non-interactive shell gives to its background jobs:
// Python would install no handler, and a bcc tool would stop only by SIGKILL. So where this process ignores
// SIGINT, Start makes it catch and drop SIGINT instead.
//
// # What ends with it
//
// When the child exits, whatever else lives in its process group is killed. A process that has left the
// group and still holds stdout or stderr delays Done by two seconds at most; [Exit.OutputCut] tells.
package process
