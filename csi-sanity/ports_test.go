package sanity

import (
	"os"
	"strings"
	"testing"
)

// port is where a process is put: a network namespace, as a file, and its address there.
type port struct{ namespace, address string }

// portOf is the port of the process of this name, where SANITY_PORTS has one: NAME=NAMESPACE@ADDRESS, several between blanks.
// tests/cluster makes such ports; without them all processes share the loopback of this host.
func portOf(name string) (port, bool) {
	for _, word := range strings.Fields(os.Getenv("SANITY_PORTS")) {
		if key, value, _ := strings.Cut(word, "="); key == name {
			namespace, address, _ := strings.Cut(value, "@")
			return port{namespace, address}, true
		}
	}
	return port{}, false
}

// inPort is the command that runs program as the process of this name where that is to be.
func inPort(name, program string) []string {
	if at, ok := portOf(name); ok {
		return []string{"nsenter", "--net=" + at.namespace, "--", program}
	}
	return []string{program}
}

// listenAt is an address on which the process of this name can listen, and the others reach it.
func listenAt(t *testing.T, name string) string {
	t.Helper()
	if at, ok := portOf(name); ok {
		return at.address + ":7430"
	}
	return freePort(t)
}
