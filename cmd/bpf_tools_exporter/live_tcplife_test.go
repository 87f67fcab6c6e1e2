package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	sessions    = "bpf_tcplife_sessions_total"
	transmitted = "bpf_tcplife_transmitted_bytes_total"
	received    = "bpf_tcplife_received_bytes_total"
	durations   = "bpf_tcplife_duration_seconds"
	peers       = "bpf_tcplife_peer_sessions_total"
)

func TestLiveTCPSessions(t *testing.T) {
	needLive(t)
	e := startExporter(t)
	const n, sent, answered = 40, 20011, 5003
	idleAndBusy(t, e, func(t *testing.T) {
		for _, family := range []struct{ name, host string }{{"ipv4", "127.0.0.1"}, {"ipv6", "::1"}} {
			t.Run(family.name, func(t *testing.T) {
				server, client := uniqueName("srv"), uniqueName("cli")
				before := e.scrape(t)
				port := runSessions(t, server, client, family.host, n, sent, answered)
				out, in := labels{"comm": client, "direction": "outbound"}, labels{"comm": server, "direction": "inbound"}
				e.expectCounts(t,
					count{sessions, out.with("family", family.name), n},
					count{sessions, in.with("family", family.name), n},
					count{transmitted, out, n * sent},
					count{received, out, n * answered},
					count{transmitted, in, n * answered},
					count{received, in, n * sent},
					count{peers, out.with("peer", family.host).with("port", port), n},
					count{peers, in.with("peer", family.host).with("port", port), n},
					// Nothing else under these names.
					count{sessions, labels{"comm": client}, n},
					count{sessions, labels{"comm": server}, n},
					count{peers, labels{"comm": client}, n},
					count{peers, labels{"comm": server}, n},
				)
				expectDurations(t, e, before, n)
			})
		}
	})
}

// expectDurations compares the histogram, which has no comm, with all sessions
// of this machine: each that began after the exporter has a duration.
func expectDurations(t *testing.T, e *exporter, before metrics, atLeast float64) {
	t.Helper()
	eventually(t, 10*time.Second, "as many durations as sessions", func() error {
		now := e.scrape(t)
		for _, direction := range []string{"outbound", "inbound"} {
			which := labels{"direction": direction}
			observed := now.sum(durations, which) - before.sum(durations, which)
			ended := now.sum(sessions, which) - before.sum(sessions, which)
			if observed != ended || ended < atLeast {
				return fmt.Errorf("%s: %v durations, %v sessions", direction, observed, ended)
			}
		}
		return nil
	})
}

// runSessions lets a client program have n sessions with a server program, and
// returns the server's port, which is any that is free.
func runSessions(t *testing.T, server, client, host string, n, sent, answered int) string {
	t.Helper()
	return runSessionsAt(t, server, client, net.JoinHostPort(host, "0"), n, sent, answered)
}

func runSessionsAt(t *testing.T, server, client, listen string, n, sent, answered int) string {
	t.Helper()
	srv := startHelper(t, server, "tcp-server", listen, strconv.Itoa(n), strconv.Itoa(answered))
	address := srv.line(t)
	runHelper(t, client, "tcp-client", address, strconv.Itoa(n), strconv.Itoa(sent), strconv.Itoa(answered))
	srv.finish(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// servicePort is a free port below those that the kernel gives to clients.
func servicePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(20000 + rand.IntN(10000))
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port)); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port from 20000 to 29999")
	return ""
}

// tcpServerHelper serves at an address and writes first which that is: so many
// sessions, each answered with so many bytes when the client has sent all.
func tcpServerHelper(args []string) error {
	n, answer, err := twoNumbers(args[1:])
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Println(l.Addr())
	for range n {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, c)
		if err == nil {
			_, err = c.Write(make([]byte, answer))
		}
		if err := errors.Join(err, c.Close()); err != nil {
			return err
		}
	}
	return nil
}

// tcpClientHelper has so many sessions with a server, one after another: it
// sends so many bytes and wants so many.
func tcpClientHelper(args []string) error {
	n, send, err := twoNumbers(args[1:])
	if err != nil {
		return err
	}
	want, err := strconv.ParseInt(args[3], 10, 64)
	if err != nil {
		return err
	}
	for range n {
		c, err := net.Dial("tcp", args[0])
		if err != nil {
			return err
		}
		_, err = c.Write(make([]byte, send))
		err = errors.Join(err, c.(*net.TCPConn).CloseWrite())
		got, readErr := io.Copy(io.Discard, c)
		if err := errors.Join(err, readErr, c.Close()); err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%d bytes, want %d", got, want)
		}
	}
	return nil
}

func twoNumbers(args []string) (int, int, error) {
	a, err := strconv.Atoi(args[0])
	if err != nil {
		return 0, 0, err
	}
	b, err := strconv.Atoi(args[1])
	return a, b, err
}

// tcpPacedHelper holds sessions open for known times, in milliseconds, and
// writes how long each was, in seconds. It is client and server in one.
func tcpPacedHelper(args []string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	failed := make(chan error, len(args))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(io.Discard, c)
				c.Close()
			}()
		}
	}()
	lengths := make(chan float64, len(args))
	for _, arg := range args {
		ms, err := strconv.ParseFloat(arg, 64)
		if err != nil {
			return err
		}
		go func() {
			begin := time.Now()
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				failed <- err
				return
			}
			time.Sleep(time.Duration(ms*float64(time.Millisecond)) - time.Since(begin))
			c.Close()
			lengths <- time.Since(begin).Seconds()
		}()
		time.Sleep(5 * time.Millisecond)
	}
	all := make([]string, 0, len(args))
	for range args {
		select {
		case err := <-failed:
			return err
		case length := <-lengths:
			all = append(all, strconv.FormatFloat(length, 'g', -1, 64))
		}
	}
	slices.Sort(all)
	fmt.Println(strings.Join(all, " "))
	return nil
}
