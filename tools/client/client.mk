# The client library as other programs get it: static, shared, header, pkg-config.
#   make install-client PREFIX=/usr/local DESTDIR=
PREFIX  ?= /usr/local
DESTDIR ?=
LIBDIR  ?= $(PREFIX)/lib

CLIENT_SO_MAJOR := 0
CLIENT_VERSION  := 0.1.0
CLIENT_SONAME   := libpollux-client.so.$(CLIENT_SO_MAJOR)
CLIENT_REAL     := libpollux-client.so.$(CLIENT_VERSION)
CLIENT_PARTS    := $(O)/libclient.a $(O)/libwire.a $(O)/libbase.a
CLIENT_LIBS     := -lsodium -lIPSec_MB -lm

# One archive that stands alone: the three parts' objects, linked into one whose only global names
# are those of the public headers.
$(O)/client/pollux-client.o: $(CLIENT_PARTS) tools/client/symbols.txt
	@mkdir -p $(@D)
	ld -r -o $@.all --whole-archive $(O)/libclient.a --no-whole-archive $(O)/libwire.a $(O)/libbase.a
	objcopy --keep-global-symbols=tools/client/symbols.txt $@.all $@ && rm -f $@.all
$(O)/client/libpollux-client.a: $(O)/client/pollux-client.o
	rm -f $@; ar rcs $@ $<
$(O)/client/$(CLIENT_REAL): $(O)/client/pollux-client.o
	$(CC) $(MODELINK) -shared -Wl,-soname,$(CLIENT_SONAME) -Wl,-z,defs -o $@ $< $(CLIENT_LIBS)
install-client: $(O)/client/libpollux-client.a $(O)/client/$(CLIENT_REAL) ## install the client library to PREFIX
	install -d $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(PREFIX)/include/pollux/fw/base
	install -m 644 tools/client/client.h $(DESTDIR)$(PREFIX)/include/pollux/
	install -m 644 fw/base/diag.h fw/base/err.h $(DESTDIR)$(PREFIX)/include/pollux/fw/base/
	install -m 644 $(O)/client/libpollux-client.a $(DESTDIR)$(LIBDIR)/
	install -m 755 $(O)/client/$(CLIENT_REAL) $(DESTDIR)$(LIBDIR)/
	ln -sf $(CLIENT_REAL) $(DESTDIR)$(LIBDIR)/$(CLIENT_SONAME)
	ln -sf $(CLIENT_SONAME) $(DESTDIR)$(LIBDIR)/libpollux-client.so
	sed -e 's|@PREFIX@|$(PREFIX)|; s|@LIBDIR@|$(LIBDIR)|; s|@VERSION@|$(CLIENT_VERSION)|' \
	  tools/client/pollux-client.pc.in >$(DESTDIR)$(LIBDIR)/pkgconfig/pollux-client.pc
.PHONY: install-client
