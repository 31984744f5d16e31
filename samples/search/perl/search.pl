#!/usr/bin/env perl
# search: the same worker in Perl, with the modules that come with it: one process, one loop around select.
#
#     perl search.pl PORT    listens on a port of this machine; with /PATH on a Unix socket
#     perl search.pl         finds PORT or SOCKET in its environment, or with LISTEN_FDS=1 a listening socket as
#                            descriptor 3; or is one CGI request, the way in which Perl served the first dynamic pages
#     GET /health            200 as soon as it listens
#     GET /anything?q=tcp    {"query": "tcp", "results": ["..."], "pid": 4121, "language": "perl"}
#
# select tells which connections can go on; what came of a request is kept until it is complete.
# After SIGTERM it answers what has arrived and exits with 0.
use v5.28;
use warnings;
use Encode qw(decode);
use File::Basename qw(dirname);
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use JSON::PP;
use POSIX qw(strftime);
use Socket qw(SHUT_WR);

use constant {RESULTS => 5, HEAD => 8192, OUT => 65_536, BACKLOG => 511};

my $json  = JSON::PP->new->utf8->allow_nonref;
my @facts = do {
    open my $file, '<', dirname(__FILE__) . '/../facts.inc' or die "search: cannot read the facts: $!\n";
    map {/^"(.*)",$/} <$file>;
};

# A document with every fact that has all words of the first parameter `q`.
sub search {
    my ($query) = $_[0] =~ /(?:^|&)q=([^&]*)/;
    ($query //= '') =~ tr/+/ /;
    $query =~ s/%([0-9A-Fa-f]{2})/chr hex $1/ge;
    $query = decode('UTF-8', $query);    # what is no UTF-8 becomes U+FFFD
    my @words = split ' ', lc $query;
    my @found = grep { my $fact = lc; @words && !grep { index($fact, $_) < 0 } @words } @facts;
    $#found = RESULTS - 1 if @found > RESULTS;
    my @members = map { $json->encode($_) } $query, \@found;
    return sprintf qq({"query": %s, "results": %s, "pid": %d, "language": "perl"}\n), @members, $$;
}

# Method and target of a head, and whether it is its connection's last. Whatever else comes is refused, by `die`: where
# two servers disagree about the end of a request, an attacker can hide a second one in the first (RFC 9112 11.2).
sub parse {
    my ($head) = @_;
    die '431 Request Header Fields Too Large: expected a head of at most ' . HEAD . " bytes\n" if length $head > HEAD;
    my ($method, $target, $minor, $fields) = $head =~ m{
        \A ([A-Z]+) [ ] ([!-~\x80-\xff]+) [ ] HTTP/1\.([0-9]) \r\n
        ( (?: [!#\$%&'*+.^_`|~0-9A-Za-z-]+ : [^\r\n\0]* \r\n )* ) \z
    }x or die "400 Bad Request: expected GET /path HTTP/1.1, then fields like Name: value, with CR LF\n";
    die "405 Method Not Allowed: expected GET or HEAD\n" if $method !~ /\A(?:GET|HEAD)\z/;
    die "400 Bad Request: expected no body\n"
        if $fields =~ /^(?:transfer-encoding:|content-length:[ \t]*(?!0[ \t]*\r))/mi;
    return ($method, $target, !$minor || $fields =~ /^connection:.*close/mi);
}

# A whole response with the JSON document $body.
sub response {
    my ($status, $body, $close, $method) = @_;
    my @head = ("HTTP/1.1 $status", strftime('Date: %a, %d %b %Y %H:%M:%S GMT', gmtime));
    push @head, 'Content-Type: application/json', 'Content-Length: ' . length $body;
    push @head, 'Allow: GET, HEAD' if $status =~ /^4/;
    push @head, 'Connection: close' if $close;
    return join "\r\n", @head, '', $method eq 'HEAD' ? '' : $body;
}

my ($readers, $writers) = (IO::Select->new, IO::Select->new);
my %clients;    # by descriptor: what was read and not used yet (in), what was answered and not sent yet (out)
my $stopping = 0;

# Answer the next request. False: it has still to come, or enough is unsent.
sub answer {
    my ($client) = @_;
    $client->{in} = '' if $client->{closing};
    my $end = index $client->{in}, "\r\n\r\n";
    return 0 if length $client->{out} > OUT || ($end < 0 && length $client->{in} <= HEAD);
    my $head = $end < 0 ? $client->{in} : substr $client->{in}, 0, $end + 2;
    substr $client->{in}, 0, $end + 4, '' if $end >= 0;
    my ($method, $target, $close) = eval { parse($head) };
    my ($status, $wrong) = $target ? '200 OK' : $@ =~ /^(.*?): (.*)$/;
    $client->{closing} = $close || $wrong || $stopping;
    my $body
        = $wrong               ? qq({"error": "$wrong"}\n)
        : $target eq '/health' ? qq({"status": "ok", "pid": $$}\n)
        :                        search($target =~ s/^[^?]*\??//r);
    return $client->{out} .= response($status, $body, $client->{closing}, $method // '');
}

# A connection can go on: read once, answer everything that is complete. False: it is over.
sub serve {
    my ($client) = @_;
    if ($client->{out} eq '') {    # who does not take his answers is not read
        my $count = sysread $client->{socket}, $client->{in}, 65_536, length $client->{in};
        return 0 if defined $count ? !$count : !$!{EAGAIN};
    }
    while (1) {                    # with room again, look again: complete requests may have waited for it
        1 while answer($client);
        last if $client->{out} eq '';
        my $count = syswrite $client->{socket}, $client->{out};
        return !!$!{EAGAIN} if !defined $count;
        substr $client->{out}, 0, $count, '';
    }
    shutdown $client->{socket}, SHUT_WR if $client->{closing};  # not close: unread input would destroy the answer
    return !($stopping && $client->{in} eq '');
}

# Let a connection go on, then wait for what it needs next.
sub go_on {
    my ($client) = @_;
    my $socket   = $client->{socket};
    my $lives    = serve($client);
    $_->remove($socket) for $readers, $writers;
    return ($client->{out} eq '' ? $readers : $writers)->add($socket) if $lives;
    delete $clients{fileno $socket};
    return close $socket;
}

# Take in one connection. False: none waits, or, of a shared socket, another worker was quicker.
sub admit {
    my ($listener) = @_;
    my $socket = $listener->accept or return 0;
    $socket->blocking(0);
    $clients{fileno $socket} = {socket => $socket, in => '', out => '', closing => 0};
    return $readers->add($socket);
}

# A new listening socket at a path or a port.
sub listen_at {
    my ($place) = @_;
    return IO::Socket::UNIX->new(Local => $place, Listen => BACKLOG) if $place =~ m{\A/};
    if ($place !~ /\A[0-9]{1,5}\z/ || $place < 1 || $place > 65_535) {
        warn "search: found port '$place', expected 1 to 65535; usage: search.pl PORT\n";
        exit 2;
    }
    return IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $place, ReuseAddr => 1, Listen => BACKLOG);
}

if ($ENV{GATEWAY_INTERFACE}) {    # RFC 3875: the answer goes to standard output, and the process ends
    print "Content-Type: application/json\r\n\r\n", search($ENV{QUERY_STRING} // '');
    exit;
}

my $asked = 0;
$SIG{TERM} = $SIG{INT} = sub { $asked = 1 };    # before it listens: whoever gets through can also end it in order
$SIG{PIPE} = 'IGNORE';
my $place     = $ARGV[0] // $ENV{SOCKET} // $ENV{PORT} // '';
my $inherited = !@ARGV && ($ENV{LISTEN_PID} // '') eq $$;    # sd_listen_fds(3)
my $listener  = $inherited ? IO::Socket::INET->new_from_fd(3, '+<') : listen_at($place);
die "search: cannot listen at $place: $!\n" if !$listener;
$listener->blocking(0);
$readers->add($listener);
warn "search: pid $$ listens at ", $inherited ? 'descriptor 3' : $place, "\n";

until ($stopping && !%clients) {
    # Perl runs a signal's handler between two steps of its own: one that came just before select is seen after 1 s.
    my ($readable, $writable) = IO::Select->select($readers, $writers, undef, 1);
    for my $socket (@{$readable // []}, @{$writable // []}) {
        $socket == $listener ? admit($listener) : go_on($clients{fileno $socket});
    }
    next if $stopping || !$asked;

    # Who waits in the backlog of a socket of our own is taken in first, and no more than fit there: who keeps coming
    # must not keep it from its end. An inherited one stays open elsewhere: there the next worker takes them. Then what
    # came is answered, and who is silent let go.
    for (1 .. BACKLOG) { last if $inherited || !admit($listener) }
    $stopping = 1;
    $readers->remove($listener);
    close $listener;
    go_on($_) for values %clients;
}
unlink $place if !$inherited && $place =~ m{\A/};
