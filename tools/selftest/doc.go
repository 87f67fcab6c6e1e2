// Package selftest makes small workloads of known size, by which a BPF tool can
// be proven to count right on this host.
//
// A [Plan] says what to do and under which names: a comm and a loopback address
// that nothing else on the host has. [Run] starts the exporter's own program
// again to do it: a first process, whose children do all that tools are to see.
// They are neither the exporter nor its children, so that a tool that leaves
// those out does see them. [Facts] are what was done.
//
// Nothing of the operator's is touched: connections are of the workload to
// itself, files have no name, and programs are the exporter's own.
package selftest
