package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	retransmits     = "bpf_tcpretrans_retransmits_total"
	peerRetransmits = "bpf_tcpretrans_peer_retransmits_total"
)

// kernelTCP are counters of one network namespace, from /proc/net/snmp and
// /proc/net/netstat: segments sent again, tail loss probes, and retransmits
// that a host's own firewall or queue refused.
type kernelTCP struct{ retransmitted, probes, failed float64 }

func readKernelTCP() (kernelTCP, error) {
	var k kernelTCP
	for _, c := range []struct {
		file, prefix, name string
		to                 *float64
	}{
		{"/proc/thread-self/net/snmp", "Tcp:", "RetransSegs", &k.retransmitted},
		{"/proc/thread-self/net/netstat", "TcpExt:", "TCPLossProbes", &k.probes},
		{"/proc/thread-self/net/netstat", "TcpExt:", "TCPRetransFail", &k.failed},
	} {
		data, err := os.ReadFile(c.file)
		if err != nil {
			return k, err
		}
		if *c.to, err = snmpValue(string(data), c.prefix, c.name); err != nil {
			return k, fmt.Errorf("%s: %w", c.file, err)
		}
	}
	return k, nil
}

// snmpValue finds a number in pairs of lines, the first of which has the names.
func snmpValue(text, prefix, name string) (float64, error) {
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != prefix {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i := range min(len(names), len(fields)) {
			if names[i] == name {
				return strconv.ParseFloat(fields[i], 64)
			}
		}
	}
	return 0, fmt.Errorf("no %s %s", prefix, name)
}

// Retransmits are forced in a network namespace of their own by dropping what
// arrives. The counters must equal the kernel's: RetransSegs counts a tail loss
// probe and a SYN-ACK like any other segment that is sent again, and so do we,
// also those whose timer interrupted another BPF program, of which nothing but
// that is known.
func TestLiveRetransmits(t *testing.T) {
	needLive(t, "/usr/sbin/nft", "/usr/sbin/ip")
	e := startExporter(t)
	idleAndBusy(t, e, func(t *testing.T) {
		for _, c := range []struct {
			name, family, host, drop string
			kinds                    []string // that must be seen
			states                   []string
		}{
			{"data", "ipv4", "198.51.100.7", "tcp dport %s tcp flags & (syn|fin|rst|psh) == psh", []string{"retransmit", "tlp"}, []string{"ESTABLISHED"}},
			{"data", "ipv6", "2001:db8::7", "tcp dport %s tcp flags & (syn|fin|rst|psh) == psh", []string{"retransmit", "tlp"}, []string{"ESTABLISHED"}},
			{"SYN", "ipv4", "198.51.100.8", "tcp dport %s tcp flags & (syn|ack) == syn", []string{"retransmit"}, []string{"SYN_SENT"}},
			{"SYN-ACK", "ipv4", "198.51.100.9", "tcp sport %s tcp flags & (syn|ack) == (syn|ack)", []string{"retransmit"}, []string{"SYN_SENT", "NEW_SYN_RECV"}},
			{"SYN-ACK", "ipv6", "2001:db8::9", "tcp sport %s tcp flags & (syn|ack) == (syn|ack)", []string{"retransmit"}, []string{"SYN_SENT", "NEW_SYN_RECV"}},
		} {
			t.Run(c.name+" "+c.family, func(t *testing.T) {
				before, host := e.scrape(t), mustReadKernelTCP(t)
				kernel := forceRetransmits(t, c.host, c.drop, c.name == "data")
				if kernel.retransmitted == 0 {
					t.Fatal("nothing was sent again")
				}
				hostNow := mustReadKernelTCP(t)
				others := hostNow.retransmitted - host.retransmitted
				t.Logf("sent again: %v, and %v outside the namespace; tail loss probes: %v", kernel.retransmitted, others, kernel.probes)
				e.expectRise(t, before,
					count{retransmits, nil, kernel.retransmitted + others},
					count{peerRetransmits, nil, kernel.retransmitted + others},
				)
				now := e.scrape(t)
				rise := func(metric string, which labels) float64 { return now.sum(metric, which) - before.sum(metric, which) }
				// Of these the kernel skipped the probe: see skipped in the tool's definition.
				unknown := rise(retransmits, labels{"kind": "unknown"})
				if got := rise(peerRetransmits, labels{"peer": "unknown"}); got != unknown {
					t.Errorf("%v of unknown kind, %v of an unknown peer: want the same", unknown, got)
				}
				expectUpTo(t, "of the peer", rise(peerRetransmits, labels{"peer": c.host}), kernel.retransmitted, unknown)
				expectUpTo(t, "tail loss probes", rise(retransmits, labels{"kind": "tlp"}), kernel.probes+hostNow.probes-host.probes, unknown)
				if unknown > 0 {
					return // it may be any of those below
				}
				for _, kind := range c.kinds {
					for _, state := range c.states {
						which := labels{"kind": kind, "state": state, "family": c.family}
						if now.sum(retransmits, which) == before.sum(retransmits, which) {
							t.Errorf("%s%v did not rise", retransmits, which)
						}
					}
				}
			})
		}
	})
}

// expectUpTo checks a count of which some may not be told from others.
func expectUpTo(t *testing.T, what string, got, want, unknown float64) {
	t.Helper()
	if got > want || got < want-unknown {
		t.Errorf("%s: %v, want %v, less at most %v that are unknown", what, got, want, unknown)
	}
}

func mustReadKernelTCP(t *testing.T) kernelTCP {
	t.Helper()
	k, err := readKernelTCP()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// forceRetransmits returns by how much the counters of a new network namespace
// rose while a session in it suffered from a rule that drops.
func forceRetransmits(t *testing.T, host, rule string, established bool) kernelTCP {
	t.Helper()
	out := startHelperIn(t, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET},
		uniqueName("retr"), "retransmits", host, rule, strconv.FormatBool(established)).finish(t)
	var k kernelTCP
	if _, err := fmt.Sscan(out, &k.retransmitted, &k.probes, &k.failed); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	return k
}

// retransmitsHelper runs in an empty network namespace: it gives loopback an
// address, has a session over it while the rule drops packets for 1.5 s, from
// the beginning or once it is established, and writes the counters.
func retransmitsHelper(args []string) error {
	address, rule := args[0], args[1]
	established, err := strconv.ParseBool(args[2])
	if err != nil {
		return err
	}
	bits := "/32"
	if strings.Contains(address, ":") {
		bits = "/128"
	}
	if err := commands([]string{"ip", "link", "set", "lo", "up"}, []string{"ip", "address", "add", address + bits, "dev", "lo", "nodad"}); err != nil {
		return err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		return err
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() { served <- acceptOne(l) }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	rule = fmt.Sprintf(rule, port)
	if err := lossySession(l.Addr().String(), rule, established); err != nil {
		return err
	}
	if err := <-served; err != nil {
		return err
	}
	k, err := readKernelTCP()
	fmt.Println(k.retransmitted, k.probes, k.failed)
	return err
}

// dialReachable connects. The kernel adds the routes of an IPv6 address from
// work queues (addrconf_dad_work), also with nodad, and until it is done with
// that nothing reaches the address.
func dialReachable(address string) (net.Conn, error) {
	deadline := time.Now().Add(10 * time.Second)
	for {
		c, err := net.Dial("tcp", address)
		if !errors.Is(err, syscall.ENETUNREACH) || time.Now().After(deadline) {
			return c, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func acceptOne(l net.Listener) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, c)
	return errors.Join(err, c.Close())
}

// lossySession sends a kilobyte.
func lossySession(address, rule string, established bool) error {
	// Packets are dropped where they arrive: a sender would notice the drop of
	// an output rule.
	drop := [][]string{
		{"nft", "add table inet live"},
		{"nft", "add chain inet live in { type filter hook input priority 0; }"},
		{"nft", "add rule inet live in " + rule + " drop"},
	}
	if !established {
		if err := commands(drop...); err != nil {
			return err
		}
		time.AfterFunc(1500*time.Millisecond, func() { _ = commands([]string{"nft", "delete table inet live"}) })
	}
	c, err := dialReachable(address)
	if err != nil {
		return err
	}
	defer c.Close()
	if established {
		if err := commands(drop...); err != nil {
			return err
		}
	}
	if _, err := c.Write(make([]byte, 1000)); err != nil {
		return err
	}
	if !established {
		return nil
	}
	time.Sleep(1500 * time.Millisecond)
	if err := commands([]string{"nft", "delete table inet live"}); err != nil {
		return err
	}
	// What was dropped arrives with the next retransmit.
	time.Sleep(2 * time.Second)
	return nil
}

func commands(all ...[]string) error {
	for _, c := range all {
		path := "/usr/sbin/" + c[0]
		if out, err := exec.Command(path, c[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%q: %w: %s", c, err, out)
		}
	}
	return nil
}
