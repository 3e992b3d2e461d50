//! Resolving the `lifetime` of a security association.

use toml::Spanned;

use super::resolve::Resolver;
use super::schema::{self, Field};
use super::value;
use crate::ipsec::{AssociationLifetime, Limits};

impl Resolver<'_> {
    /// None after errors.
    pub(super) fn association_lifetime(
        &mut self,
        table: Option<&Spanned<schema::AssociationLifetime>>,
        key: &str,
    ) -> Option<AssociationLifetime> {
        let Some(table) = table else { return Some(AssociationLifetime::default()) };
        let fields = table.get_ref();
        let soft = self.limits(&fields.soft, &format!("{key}.soft"));
        let hard = self.limits(&fields.hard, &format!("{key}.hard"));
        let (soft, hard) = (soft?, hard?);
        let pairs = [
            (soft.bytes, hard.bytes, "bytes"),
            (soft.packets, hard.packets, "packets"),
            (soft.seconds, hard.seconds, "seconds"),
        ];
        for (soft, hard, unit) in pairs {
            if let (Some(soft), Some(hard)) = (soft, hard)
                && soft >= hard
            {
                let message = format!("the soft limit of {soft} {unit} is not below the hard one of {hard}");
                let span = fields.soft.as_ref().map_or(table.span(), Spanned::span);
                let diagnostic = self.at(span, &format!("{key}.soft.{unit}"), message);
                let help = "the soft limit tells that new keys are due while the old ones still serve: choose a smaller number";
                self.error(diagnostic.help(help));
                return None;
            }
        }
        Some(AssociationLifetime { soft, hard })
    }

    fn limits(&mut self, table: &Field<schema::Limits>, key: &str) -> Option<Limits> {
        let Some(table) = table else { return Some(Limits::default()) };
        let fields = table.get_ref();
        let bytes = self.optional(&fields.bytes, &format!("{key}.bytes"), |n| value::limit(*n, "octets"));
        let packets = self.optional(&fields.packets, &format!("{key}.packets"), |n| value::limit(*n, "packets"));
        let seconds = self.optional(&fields.seconds, &format!("{key}.seconds"), |n| value::limit(*n, "seconds"));
        Some(Limits { bytes: bytes?, packets: packets?, seconds: seconds? })
    }
}
